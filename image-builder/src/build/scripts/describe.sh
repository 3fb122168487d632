# Prints what the container image says of itself, and notes where its layers are.
set -eu
described=/var/lib/hearth/tmp/described
ask='use IO::Socket::UNIX; alarm 300; my $s = IO::Socket::UNIX->new("/run/docker.sock") or die "dockerd: $!\n";
    print $s "GET /images/$ARGV[0]/json HTTP/1.0\r\n\r\n"; my $status = <$s>; while (<$s>) { last if /^\r\n/ }
    print while <$s>; die $status unless $status =~ / 200 /'
perl -e "$ask" "$(cat /var/lib/hearth/image)" > $described
# No text of the image can look like the driver's data: its quotes are escaped.
data=$(sed -n 's/.*"GraphDriver":{"Data":\({[^{}]*}\).*/\1/p' $described)
for folder in UpperDir LowerDir; do
    echo "$data" | sed -n "s/.*\"$folder\":\"\([^\"]*\)\".*/\1/p"
done | tr : '\n' > /var/lib/hearth/tmp/layers
cat $described
