"""locald.images with real registries, real images and other tools as oracles."""
