"""What every room needs: errors, files of others, output files, native libraries, the command line."""
