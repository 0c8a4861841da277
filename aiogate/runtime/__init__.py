"""Running: the process. `assembly` knows all rooms, `reload` is the journey of a YAML file, `worker` is the process."""
