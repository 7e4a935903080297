"""How accurate trainings on few micrographs are: `tasks`, `runs` of them, and `results` of the runs."""
