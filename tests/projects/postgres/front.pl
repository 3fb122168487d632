#!/usr/bin/perl
# Answers each request with a count of products and of visits, from the database.
use strict;
use warnings;
use IO::Socket::INET;

my $query = 'with visit as (insert into visits default values returning id)
    select (select count(*) from products) || \' products, \' || (select max(price) from products) || \' at most, visit \' || id from visit';
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 16, ReuseAddr => 1) or die "port 8080: $!\n";
while (my $client = $server->accept) {
    while (my $line = <$client>) {
        last if $line =~ /^\r?\n$/;
    }
    open my $psql, '-|', 'psql', '--no-psqlrc', '--quiet', '--tuples-only', '--no-align', '--username=shop', '--dbname=shop', '--command', $query
        or die "psql: $!\n";
    my $answer = do { local $/; <$psql> } // '';
    my $status = close $psql ? '200 OK' : '503 Service Unavailable';
    print $client "HTTP/1.1 $status\r\nContent-Type: text/plain\r\nContent-Length: ", length $answer, "\r\nConnection: close\r\n\r\n$answer";
    close $client;
}
