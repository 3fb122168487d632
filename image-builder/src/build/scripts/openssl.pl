# Has the OpenSSLs of a container ask the kernel for random numbers, so that clones do not go on with the same ones.
#
#   openssl.pl ROOT PROVIDER CONFIGURATION < LIBRARIES
#
# ROOT has the container's files, PROVIDER is the shared object that goes there, CONFIGURATION the app's OPENSSL_CONF, and LIBRARIES the
# paths, each with a zero byte after it, of files in ROOT that may hold an OpenSSL. Prints a line for each that is not changed.
#
# Nothing of the container is run, and all its paths are followed from its own root. Times of files stay as they are.
use strict;
use warnings;

my $MODULE = '/usr/lib/hearth/openssl.so';
# Bytes of a library that are read at once, of a configuration that is read at all, and files that it may include.
my ($CHUNK, $MAX, $FILES) = (1 << 20, 1 << 20, 64);
my $SEE = 'see docs/images.md, "Safe for clones"';

my ($root, $provider, $environment) = @ARGV;
my $module = $provider eq '' ? undef : slurp($provider);
my @libraries = do { local $/ = "\0"; map { chomp; substr($_, length $root) } <STDIN> };
chroot $root or die "entering the container's files: $!\n";
chdir '/' or die "entering the container's files: $!\n";

# Which configuration each library reads. A file that the app's variable names is read instead by all of them.
my (%readers, %times);
for my $path (sort @libraries) {
    my ($version, $folder, $time) = look($path) or next;
    my $name = printable($path) . " (OpenSSL $version)";
    if ($version !~ /^[3-9]\./) {
        warning("$name draws the same random numbers in all clones: use OpenSSL 3, or seed it after each launch");
        next;
    }
    my $file = $environment ne '' ? $environment : "$folder/openssl.cnf";
    push @{ $readers{$file} }, $name;
    $times{$file} = $time if !defined $times{$file} || $time > $times{$file};
}
for my $file (sort keys %readers) {
    my $reason = defined $module ? configure($file, $times{$file}) : 'the base image is of an earlier release';
    next if !defined $reason;
    my $rest = @{ $readers{$file} } > 1 ? ' and others' : '';
    warning("$readers{$file}[0]$rest may draw the same random numbers in all clones: " . printable($file) . " was not changed, $reason");
}

sub warning { print "warning: $_[0]; $SEE\n" }

# A text of the container, for a line of the log.
sub printable {
    my ($text) = @_;
    $text =~ s/[^\x20-\x7e]/?/g;
    return length $text > 200 ? substr($text, 0, 200) . '...' : $text;
}

sub slurp {
    my ($path) = @_;
    open my $file, '<:raw', $path or die "$path: $!\n";
    local $/;
    return scalar <$file>;
}

# Version and folder of the OpenSSL in a file, and the file's time; nothing if it has none.
sub look {
    my ($path) = @_;
    return if !-f $path;
    my $time = (stat _)[9];
    open my $file, '<:raw', $path or return;
    my ($text, $version, $folder) = ('');
    while (read $file, my $more, $CHUNK) {
        return if $text eq '' && substr($more, 0, 4) ne "\x7fELF";
        # What lies across the end of a chunk is found with the next one.
        $text = substr($text, -512) . $more;
        $version = $1 if !defined $version && $text =~ /OpenSSL (\d+\.\d+\.\d+[a-z]*)[-+\w.]* +\d+ [A-Z][a-z][a-z] \d{4}\0/;
        $folder = $1 if !defined $folder && $text =~ m{OPENSSLDIR: "(/[^"\0\n]*)"\0};
        return ($version, $folder, $time) if defined $version && defined $folder;
    }
    return;
}

# Completes a configuration. Returns the reason if it stays as it is.
sub configure {
    my ($path, $time) = @_;
    return 'its path is no absolute one' if $path !~ m{^/};
    my ($exists, $sections) = (-e $path, {});
    return 'it is not there' if !$exists && $path eq $environment;
    if ($exists) {
        my $reason = parse($path, $sections, { left => $FILES });
        return $reason if defined $reason;
        return if $sections->{hearth_provider};
    }
    my ($apps, $sections_of_apps) = ('', '');
    for my $app ('openssl_conf', 'nodejs_conf') {
        my $name = $sections->{default}{$app};
        if (!defined $name) {
            $name = "hearth_$app";
            $apps .= "$app = $name\n";
        }
        my $of = $sections->{$name} || {};
        return 'it has settings of its own for random numbers' if grep { /^random(\.|\z)/ } keys %$of;
        my ($active, $fips) = providers($sections, $of);
        return 'it is for FIPS' if $fips;
        # Where a provider is activated by name, the default one is not there by itself any more.
        my $providers = $active ? 'hearth_providers' : 'hearth_providers_and_default';
        $sections_of_apps .= "[ $name ]\nproviders.hearth = $providers\nrandom.hearth = hearth_random\n";
    }
    my $text = <<END;

# Of Hearth, when the image was built: random numbers are the kernel's, which are not the same in all clones of a microVM. Without the
# file of the provider, OpenSSL goes on with its own. See docs/images.md, "Safe for clones".
[ default ]
$apps$sections_of_apps
[ hearth_providers ]
hearth = hearth_provider
[ hearth_providers_and_default ]
default = hearth_default
hearth = hearth_provider
[ hearth_default ]
activate = 1
[ hearth_provider ]
module = $MODULE
soft_load = 1
activate = 1
[ hearth_random ]
random = CTR-DRBG
properties = ?provider=hearth
END
    $text =~ s/^\n// if !$exists;
    return install($time) // add($path, $text, $time);
}

# The value of each name of each section of a configuration, as far as they are needed. Returns the reason if it cannot be known.
sub parse {
    my ($path, $sections, $state) = @_;
    return 'it includes too many files' if $state->{left}-- <= 0;
    return printable($path) . ' is no file' if !-f $path;
    return printable($path) . ' is too large' if -s _ > $MAX;
    my $text = slurp($path);
    $text =~ s/\\\r?\n//g;
    my $section = 'default';
    for my $line (split /\r?\n/, $text) {
        $line =~ s/^\s+|\s+$//g;
        if ($line =~ /^\.include(?:\s*=\s*|\s+)(.+)$/) {
            my $included = $1;
            return printable("it includes $included") if $included !~ m{^/[^\$\\"'#]*$};
            next if !-e $included;
            my @files = ($included);
            if (-d _) {
                opendir my $folder, $included or return printable("$included: $!");
                @files = map { "$included/$_" } sort grep { /\.(cnf|conf)$/ } readdir $folder;
            }
            for my $file (@files) {
                my $reason = parse($file, $sections, $state);
                return $reason if defined $reason;
            }
        } elsif ($line =~ /^\[\s*([^\]]*?)\s*\]/) {
            $section = $1;
        } elsif ($line =~ /^([^\s=#\[]+)\s*=\s*(.*)$/) {
            my ($in, $name, $value) = ($section, $1, $2);
            ($in, $name) = ($1, $2) if $name =~ /^(.+)::(.+)$/;
            $value =~ s/\s*#.*$//;
            $value =~ s/^"([^"\\\$]*)"$/$1/;
            $sections->{$in}{$name} = $value;
        }
    }
    # Values that are made of others are not worked out.
    my $default = $sections->{default} || {};
    for my $app ('openssl_conf', 'nodejs_conf') {
        return "its $app is no plain name" if defined $default->{$app} && $default->{$app} !~ /^[\w.-]+$/;
    }
    return;
}

# Whether an app's section activates a provider, and whether it asks for FIPS.
sub providers {
    my ($sections, $of) = @_;
    my ($active, $fips) = (0, 0);
    for my $key (keys %$of) {
        my $list = $sections->{ $of->{$key} } || {};
        if ($key =~ /^alg_section(\.|\z)/) {
            $fips ||= grep { /fips/i } map { "$_ $list->{$_}" } keys %$list;
        }
        next if $key !~ /^providers(\.|\z)/;
        for my $name (keys %$list) {
            my $provider = $sections->{ $list->{$name} } || {};
            my ($activate) = grep { /^activate(\.|\z)/ } keys %$provider;
            next if !defined $activate;
            return (0, 1) if $name =~ /fips/i;
            $active = 1 if $provider->{$activate} !~ /^(0|no|false|off)$/i;
        }
    }
    return ($active, $fips);
}

# Writes the provider's file, once. Returns the reason if it cannot be.
sub install {
    my ($time) = @_;
    return if -f $MODULE && slurp($MODULE) eq $module;
    my $reason = folders($MODULE, $time);
    return $reason if defined $reason;
    return write_new($MODULE, $module, 0755, $time);
}

# Adds a text to a file, or makes the file. Returns the reason if it cannot be.
sub add {
    my ($path, $text, $time) = @_;
    if (!-e $path) {
        # A link that leads nowhere leads to the file that is made.
        my $target = $path;
        for (1 .. 8) {
            last if !-l $target;
            my $next = readlink $target;
            ($target = $next =~ m{^/} ? $next : $target =~ s{[^/]*$}{$next}r);
        }
        return folders($target, $time) // write_new($target, $text, 0644, $time);
    }
    my @times = (stat $path)[8, 9];
    open my $file, '>>:raw', $path or return lc $!;
    my $written = print {$file} $text;
    close $file and $written or return lc $!;
    utime @times, $path;
    return;
}

# Makes the folders above a file. Returns the reason if they cannot be made.
sub folders {
    my ($path, $time) = @_;
    my $folder = '';
    for my $name (split m{/}, $path =~ s{/[^/]*$}{}r) {
        next if $name eq '';
        my ($parent, @times) = ($folder eq '' ? '/' : $folder, (stat($folder eq '' ? '/' : $folder))[8, 9]);
        $folder .= "/$name";
        next if -d $folder;
        mkdir $folder, 0755 or return lc $!;
        utime $time, $time, $folder;
        utime @times, $parent;
    }
    return;
}

sub write_new {
    my ($path, $content, $mode, $time) = @_;
    my $parent = $path =~ s{/[^/]*$}{}r || '/';
    my @times = (stat $parent)[8, 9];
    unlink $path;
    open my $file, '>:raw', $path or return lc $!;
    my $written = print {$file} $content;
    close $file and $written or return lc $!;
    chmod $mode, $path;
    utime $time, $time, $path;
    utime @times, $parent;
    return;
}
