# Debian's package makes a cluster of its own, the public image makes one when it starts.
rm -rf var/lib/postgresql/17 etc/postgresql/17
mkdir -p docker-entrypoint-initdb.d var/lib/postgresql/data
owner=$(grep '^postgres:' etc/passwd | cut -d: -f3,4)
mkdir -p run/postgresql
chown "$owner" var/lib/postgresql var/lib/postgresql/data run/postgresql
chmod 3777 run/postgresql
# It listens to everybody, as the public image does.
echo "listen_addresses = '*'" >> usr/share/postgresql/17/postgresql.conf.sample
