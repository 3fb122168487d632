# The public image has its Python in /usr/local.
for name in python python3 python3.13; do
    ln -sfn /usr/bin/python3.13 usr/local/bin/$name
done
