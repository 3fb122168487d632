<?php

declare(strict_types=1);

// The visits are in a file, for PHP forgets everything with each request.
$file = fopen(sys_get_temp_dir() . '/visits', 'c+');
flock($file, LOCK_EX);
$visit = (int) stream_get_contents($file) + 1;
rewind($file);
fwrite($file, (string) $visit);
flock($file, LOCK_UN);

$german = new NumberFormatter('de_DE', NumberFormatter::DECIMAL);
header('Content-Type: text/plain; charset=utf-8');
echo "visit $visit: 2^100 = ", bcpow('2', '100'), ', 1234567.5 = ', $german->format(1234567.5), "\n";
