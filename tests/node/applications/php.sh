#!/bin/sh
# Pid 1 reaps, and passes on that it is to end.
/usr/sbin/php-fpm* --fpm-config /etc/php-fpm.conf &
apache2 -DFOREGROUND &
trap 'kill $(jobs -p)' TERM
wait
