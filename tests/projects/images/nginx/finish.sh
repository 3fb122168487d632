# The user of the public image, and its log: it goes to the container's output.
echo 'nginx:x:101:101:nginx user:/nonexistent:/bin/false' >> etc/passwd
echo 'nginx:x:101:' >> etc/group
echo 'nginx:!:20000::::::' >> etc/shadow
mkdir -p docker-entrypoint.d var/cache/nginx var/log/nginx
rm -f etc/nginx/sites-enabled/* etc/nginx/modules-enabled/*
ln -sfn /dev/stdout var/log/nginx/access.log
ln -sfn /dev/stderr var/log/nginx/error.log
