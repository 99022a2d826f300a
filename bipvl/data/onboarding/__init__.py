"""Make the data set YAML and the prompt CSV for a folder of your own scans."""
