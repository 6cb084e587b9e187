"""docker-livemig: the Docker CLI plugin, the peers that move a container, and the OCI runtime."""
