#!/bin/sh
# As the image's own start: Kafka's wrapper turns KAFKA_* into server.properties and formats the storage once.
set -e
CLASSES='/opt/kafka/libs/*'
java -cp "$CLASSES" kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker \
    --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config
exec java $KAFKA_HEAP_OPTS -cp "$CLASSES" kafka.Kafka /opt/kafka/config/server.properties
