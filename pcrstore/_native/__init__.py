"""The C transcoder, where it could be built. `pcrstore.transcode` is its only user."""
