mkdir -p opt/java
ln -sfn /usr/lib/jvm/java-21-openjdk-arm64 opt/java/openjdk
