# The user of the public image, and its programs in /usr/local.
echo 'node:x:1000:1000::/home/node:/bin/bash' >> etc/passwd
echo 'node:x:1000:' >> etc/group
echo 'node:!:20000::::::' >> etc/shadow
mkdir -p home/node
chown 1000:1000 home/node
for name in node npm npx; do
    ln -sfn /usr/bin/$name usr/local/bin/$name
done
