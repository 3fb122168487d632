# Extensions are there and not loaded until somebody installs them.
rm -f etc/php/8.4/cli/conf.d/*-bcmath.ini etc/php/8.4/cli/conf.d/*-intl.ini
ln -sfn /usr/bin/php8.4 usr/local/bin/php
mkdir -p usr/local/etc/php/conf.d var/www/html
