mkdir -p usr/local/cargo/bin
