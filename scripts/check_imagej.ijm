// What ImageJ makes of images and regions: check_imagej runs this with "RAW IMAGES|RESULTS|RESULTS".
// RESULTS/images.csv gets a row an image; <name>_regions.csv a row a region, measured on the numbered carbides;
// <name>_seen.png is what a person sees of those; <name>_regions.png has the regions on the InLens image.
setBatchMode(true);
folders = split(getArgument(), "|");
for (i = 1; i < folders.length; i++)
    look("" + folders[i] + "/", "" + folders[0] + "/"); // without "" first, ImageJ takes them for numbers

function look(folder, raw) {
    files = getFileList(folder);
    table = folder + "images.csv";
    File.saveString("imagej,file,width,height,bits,unit,pixel_width,pixel_height,low,high,mean,max\n", table);
    for (k = 0; k < files.length; k++) {
        if (!endsWith(files[k], "_labels.tif") && !endsWith(files[k], "_probability.tif") && !endsWith(files[k], "_mask.png"))
            continue;
        open(folder + files[k]);
        getPixelSize(unit, width, height);
        getMinAndMax(low, high);
        getStatistics(area, mean, min, max);
        row = getVersion + "," + files[k] + "," + getWidth + "," + getHeight + "," + bitDepth + "," + unit + "," + d2s(width, -9) + "," +
            d2s(height, -9) + "," + d2s(low, -9) + "," + d2s(high, -9) + "," + d2s(mean, -9) + "," + d2s(max, -9);
        File.append(row, table);
        if (endsWith(files[k], "_labels.tif"))
            regions(folder + replace(files[k], "_labels.tif", ""), raw + inlens("" + files[k]));
        close("*");
    }
}

function regions(name, image) {
    run("Duplicate...", "title=seen");
    run("RGB Color"); // PNG would keep the numbers
    saveAs("PNG", name + "_seen.png");
    close();
    if (!File.exists(name + "_rois.zip"))
        return;
    roiManager("reset");
    roiManager("open", name + "_rois.zip");
    file = File.open(name + "_regions.csv");
    print(file, "name,area,mean,min,max,x,y");
    for (i = 0; i < roiManager("count"); i++) {
        roiManager("select", i);
        print(file, Roi.getName + "," + d2s(getValue("Area"), -9) + "," + d2s(getValue("Mean"), -9) + "," + d2s(getValue("Min"), -9) + "," +
            d2s(getValue("Max"), -9) + "," + d2s(getValue("X"), -9) + "," + d2s(getValue("Y"), -9));
    }
    File.close(file);
    if (!File.exists(image))
        return;
    open(image);
    run("From ROI Manager");
    run("Flatten");
    saveAs("PNG", name + "_regions.png");
}

// The second image of a pair: jfl_002.tif for jfl_001_labels.tif.
function inlens(labels) {
    stem = replace(labels, "_labels.tif", "");
    at = lastIndexOf(stem, "_") + 1;
    return substring(stem, 0, at) + IJ.pad(parseInt(substring(stem, at)) + 1, lengthOf(stem) - at) + ".tif";
}
