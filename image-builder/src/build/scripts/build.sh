# Builds the Dockerfile in /var/lib/hearth/context, or takes the container image whose layout is there.
set -eu
export DOCKER_HOST=unix:///run/docker.sock TMPDIR=/var/lib/hearth/tmp BUILDX_GIT_INFO=false BUILDX_NO_DEFAULT_ATTESTATIONS=1 NO_COLOR=1
cd /var/lib/hearth/context

# dockerd listens before it is ready, and answers when it is.
answers='use IO::Socket::UNIX; alarm 100; my $s = IO::Socket::UNIX->new("/run/docker.sock") or exit 1;
    print $s "GET /_ping HTTP/1.0\r\n\r\n"; exit(<$s> =~ / 200 / ? 0 : 1)'
until perl -e "$answers"; do
    # One that has ended stays as a zombie: nobody in this container takes note of it.
    state=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$(cat /run/dockerd.pid)/status" 2>/dev/null || true)
    case $state in '' | Z*) SECONDS=1000 ;; esac
    if [ $SECONDS -gt 200 ]; then
        tail -n 20 /run/containerd.log /run/dockerd.log >&2
        echo "ERROR: the builder's dockerd does not answer" >&2
        exit 70
    fi
    sleep 0.2
done

if [ "$1" = layout ]; then
    tar -c . | docker load --quiet | sed -n 's/^Loaded image.*\(sha256:[0-9a-f]*\)$/\1/p' > /var/lib/hearth/image
    [ -s /var/lib/hearth/image ]
    exit
fi

# A `# syntax=` names an image that reads the Dockerfile. BuildKit has Docker's own built in, and nothing else is pulled to read one: the
# line goes, and an empty comment below the last directive keeps the numbers of the other lines.
mkdir -p /var/lib/hearth/tmp/file
[ ! -f Dockerfile.dockerignore ] || cp Dockerfile.dockerignore /var/lib/hearth/tmp/file
awk '
    function rest() { head = 0; while (gone-- > 0) print "#" }
    BEGIN { head = 1 }
    head {
        line = $0
        if (NR == 1) sub(/^\357\273\277/, "", line)
        if (NR == 1 && line ~ /^#!/) { print; next }
        if (tolower(line) ~ /^(#|\/\/)[ \t\f]*syntax[ \t\f]*=[ \t\f]*[^ \t\f\r]/) {
            sub(/^[^=]*=[ \t\f]*/, "", line)
            sub(/[ \t\f\r].*$/, "", line)
            if (line !~ /^((registry-1\.|index\.)?docker\.io\/)?docker\/dockerfile(-upstream)?([:@].*)?$/) {
                print "ERROR: syntax=" line " is not known here: leave the line out, or write docker/dockerfile:1" > "/dev/stderr"
                exit failed = 1
            }
            gone++
            next
        }
        if (tolower(line) !~ /^#[ \t\f]*(escape|check)[ \t\f]*=/) rest()
    }
    { print }
    END { if (head && !failed) rest() }
' Dockerfile > /var/lib/hearth/tmp/file/Dockerfile
# Names of bases that this host has not are asked for nowhere: anybody may own them in a registry.
export EXPERIMENTAL_BUILDKIT_SOURCE_POLICY=/hearth/policy.json
# The storage keeps layers between builds of one image; what a tag means is asked for again where a registry answers.
# Started by itself: `docker` would start it three times.
/usr/libexec/docker/cli-plugins/docker-buildx build --progress plain --network host --provenance=false --sbom=false \
    --iidfile /var/lib/hearth/image --file /var/lib/hearth/tmp/file/Dockerfile .
