# The public image has its Go in /usr/local.
ln -sfn /usr/lib/go usr/local/go
mkdir -p go/src go/bin
