# Sourced by jobs that start the daemon, with $home set to a folder for its files: leaves its configuration in $home/hearthd.toml.
# Guests are as small as can be, and everything has the time that an emulated host needs.
run="/run/hearth-${0##*/}"
rm -rf "$run"
mkdir -p "$run"
cat > "$home/hearthd.toml" << END
data = "$home/data"
run = "$run"
burst = 1
launch_timeout_seconds = 120
listen.socket = "$home/hearthd.sock"
paths.vmm = "$HEARTH_VMM"
paths.catalogue = "$HEARTH_CATALOGUE"
builder.memory_mib = 1536
END
if [ -e "$HEARTH_IN/listen.sh" ]; then
    . "$HEARTH_IN/listen.sh"
    chmod 600 "$HEARTH_IN/key.pem"
    cat >> "$home/hearthd.toml" << END
listen.address = "$listen"
listen.certificate = "$HEARTH_IN/certificate.pem"
listen.key = "$HEARTH_IN/key.pem"
endpoint.address = "$endpoint"
[[access.keys]]
id = "$key_id"
secret = "$secret"
END
fi
