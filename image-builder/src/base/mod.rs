//! Base images: kernel, initramfs, the builder's root disk, container bases.
