"""The benchmark: every figure beside that of plain code (`reference`), measured in the same run."""
