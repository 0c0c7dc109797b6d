"""What every room stands on: errors, files, devices, processes, progress, words."""
