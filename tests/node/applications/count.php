<?php
// Counts its requests: "TOKEN COUNT", the token being drawn at the first one. What PHP keeps between requests is a file.
$file = fopen("/tmp/count", "c+");
flock($file, LOCK_EX);
[$token, $count] = explode(" ", fgets($file) ?: bin2hex(random_bytes(8)) . " 0");
$answer = $token . " " . ++$count . "\n";
rewind($file);
fwrite($file, $answer);
echo $answer;
