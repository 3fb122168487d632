#!/usr/bin/perl
# Answers each request with the title of the page after a fresh rendering.
use strict;
use warnings;
use IO::Socket::INET;

# Asks the browser's own server, and returns the body of its answer.
sub browser {
    my ($method, $path) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 9223, Timeout => 10) or return '';
    print $socket "$method $path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    my $length = 0;
    while (my $line = <$socket>) {
        last if $line =~ /^\r?\n$/;
        $length = $1 if $line =~ /^content-length:\s*(\d+)/i;
    }
    read $socket, my $body, $length;
    return $body // '';
}

# Opens the page, waits until it has said its title, and closes it.
sub render {
    my $deadline = time + 100;
    my $id;
    while (time < $deadline) {
        ($id) = browser('PUT', '/json/new?file:///app/page.html') =~ /"id":\s*"([^"]+)"/;
        last if $id;
        sleep 1;
    }
    while ($id && time < $deadline) {
        for my $page (split /\},\s*\{/, browser('GET', '/json/list')) {
            next unless $page =~ /"id":\s*"\Q$id\E"/ && $page =~ /"title":\s*"(rendered: [^"]*)"/;
            my $title = $1;
            browser('GET', "/json/close/$id");
            return $title;
        }
        select undef, undef, undef, 0.2;
    }
    return undef;
}

my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 16, ReuseAddr => 1) or die "port 8080: $!\n";
my $count = 0;
while (my $client = $server->accept) {
    while (my $line = <$client>) {
        last if $line =~ /^\r?\n$/;
    }
    my $title = render();
    my ($status, $body) = defined $title ? ('200 OK', $title . ', page ' . ++$count . "\n") : ('503 Service Unavailable', "the browser does not answer\n");
    print $client "HTTP/1.1 $status\r\nContent-Type: text/plain\r\nContent-Length: ", length $body, "\r\nConnection: close\r\n\r\n$body";
    close $client;
}
