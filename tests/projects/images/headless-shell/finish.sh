ln -sfn /usr/bin/chromium-headless-shell headless-shell/headless-shell
