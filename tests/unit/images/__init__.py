"""Units of locald.images and locald.oci: no root, no network, no child process."""
