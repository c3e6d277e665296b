"""The C transcoder, where it could be built. `pcrstore.jpeg.transcoder` is its only user."""
