//! What Dockerfiles of other people write: all of it builds, or the build says in one line what it may not do.

use std::fs;
use std::path::Path;

use hearth_host::network::Egress;
use hearth_image_builder::build::LogStream;

use super::support::Site;

/// Cases that only have to build: each step fails if something in it is not as with Docker. They are grouped into stages, of which the
/// last takes a file each, since no stage is built that nobody needs.
const CASES: &str = r##"# syntax=docker/dockerfile:1.7-labs
# escape=`
ARG BASE=hearth/debian TAG=13
ARG G=global

FROM ${BASE}:${TAG} AS arguments
RUN test -z "$G"
ARG G
ARG TARGETARCH TARGETPLATFORM BUILDPLATFORM
ENV E=${G}-e N=foo.tar.gz
ENV A=${N%.gz} B=${N##*.} C=${N/foo/bar} D=${NONE:-d}
RUN test "$G $E $A $B $C $D" = "global global-e foo.tar gz bar.tar.gz d" && `
    # A comment in between, and a line that goes on.
    test "$TARGETARCH $TARGETPLATFORM" = "arm64 $BUILDPLATFORM" && echo "arguments" > /done

FROM hearth/debian:13 AS links
RUN ln -s /srv /lnk
COPY --link app /srv/app
ADD --link app /lnk/other
COPY --link --from=arguments /done /taken
RUN grep -q arguments /taken && test -f /srv/app && test -L /lnk && test -f /lnk/other && echo links > /done

FROM hearth/debian:13 AS modes
COPY --chmod=u=rwX,go=rX modes /modes
RUN test "$(stat -c %a /modes /modes/x | tr '\n' ' ')" = "755 644 " && `
    echo bob:x:1234:1234::/:/bin/sh >> /etc/passwd && echo grp:x:4321: >> /etc/group
COPY --chown=bob:grp --chmod=400 app /a1
COPY --chown=55 app /a2
RUN test "$(stat -c '%u:%g %a' /a1 /a2 | tr '\n' ' ')" = "1234:4321 400 55:55 644 " && echo modes > /done

FROM hearth/debian:13 AS documents
ARG V=1
COPY <<EOF /a
"$V" '$V' \$V
EOF
COPY <<'EOF' /b
"$V" '$V' \$V
EOF
COPY <<robots.txt <<humans.txt /w/
Disallow: /
robots.txt
h
humans.txt
RUN <<EOF
#!/bin/bash
set -e
[[ -n $BASH_VERSION ]]
test "$(cat /a)" = "\"1\" '1' \$V"
test "$(cat /b)" = "\"\$V\" '\$V' \\\$V"
grep -q Disallow /w/robots.txt
EOF
RUN <<EOF1 cat > /h1 && cat <<EOF2 > /h2
one
EOF1
two
EOF2
RUN --mount=type=tmpfs,target=/t <<EOF
test "$(cat /h1 /h2 | tr '\n' ' ')" = "one two "
touch /t/x
echo documents > /done
EOF

FROM hearth/debian:13 AS processes
RUN sleep 1000 > /dev/null 2>&1 &
RUN ! grep -qs sleep /proc/[0-9]*/comm && test $$ -lt 10 && echo processes > /done

FROM hearth/debian:13 AS mounts
RUN mkdir -p /o/in && echo seeded > /o/in/f
RUN --mount=type=cache,target=/c,uid=1000,gid=1001,mode=0700 test "$(stat -c '%u:%g %a' /c)" = "1000:1001 700"
RUN --mount=type=cache,target=/c echo a > /c/a
RUN --mount=type=cache,target=/c --mount=type=cache,id=other,target=/d grep -q a /c/a && test ! -e /d/a
RUN test ! -e /c/a
RUN --mount=type=cache,id=s,from=links,source=/srv,target=/c test -f /c/app
RUN --mount=type=bind,target=/ctx grep -q text /ctx/app && ! touch /ctx/new
RUN --mount=type=bind,rw,target=/ctx touch /ctx/new
RUN --mount=type=bind,from=hearth/python:3.13,source=/usr/bin,target=/e test -e /e/python3 && test ! -e /ctx/new
RUN --mount=type=secret,id=tok --mount=type=ssh test ! -s /run/secrets/tok
RUN --network=none --mount=type=tmpfs,target=/t touch /t/x && echo mounts > /done

FROM hearth/debian:13 AS parent
ONBUILD COPY app /onbuild
ONBUILD RUN --mount=type=cache,target=/cc touch /cc/x
FROM parent AS orders
RUN test -f /onbuild && echo orders > /done

FROM hearth/debian:13 AS copies
COPY ["a b", "/sp/"]
COPY mod[e]s/? nofile* /g/
COPY --exclude=*.md --exclude=modes . /e/
ADD --unpack=false app /n/
ADD t.tar.gz /untar/
RUN test -f "/sp/a b" && test -f /g/x && test ! -e /e/r.md && test ! -e /e/modes && test -f /e/app && `
    test "$(cat /untar/app)" = text && test ! -e /e/ignored && test -f /e/kept && echo copies > /done

FROM --platform=$BUILDPLATFORM hearth/python:3.13 AS made
RUN mkdir /o && cd /o && touch x h1 && ln h1 h2 && chmod 4755 h1 && truncate -s 9M sparse && `
    touch -d '2001-02-03 04:05:06 UTC' tm "$(printf 'a\nb')" "$(printf '\377\376')" && `
    python3 -c "import os; os.setxattr('x', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))"
FROM hearth/python:3.13 AS odd
COPY --from=made /o /p
RUN cd /p && test "$(stat -c '%h %a' h1)" = "2 4755" && test "$(stat -c %Y tm)" = 981173106 && test -f "$(printf 'a\nb')" && `
    test -f "$(printf '\377\376')" && python3 -c "import os; assert len(os.getxattr('x', 'security.capability')) == 20" && `
    test "$(stat -c '%s' sparse)" = 9437184 && echo odd > /done

FROM hearth/debian:13
COPY --from=arguments /done /done/arguments
COPY --from=links /done /done/links
COPY --from=modes /done /done/modes
COPY --from=documents /done /done/documents
COPY --from=processes /done /done/processes
COPY --from=mounts /done /done/mounts
COPY --from=orders /done /done/orders
COPY --from=copies /done /done/copies
COPY --from=10 /done /done/odd
COPY changed /changed
RUN --mount=type=cache,target=/c echo "the cache has $(cat /c/count)"; cat /changed >> /c/count
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
HEALTHCHECK --interval=5s CMD ["true"]
STOPSIGNAL SIGINT
VOLUME /data
WORKDIR /done
CMD cat * && exec sleep infinity
SHELL ["/no/shell", "-c"]
ONBUILD RUN false
"##;

/// Names of the stages of [`CASES`].
const STAGES: [&str; 9] =
    ["arguments", "links", "modes", "documents", "processes", "mounts", "orders", "copies", "odd"];

/// Files of the context.
fn write_files(context: &Path) {
    fs::create_dir(context.join("modes")).unwrap();
    for (name, text) in [
        ("app", "text"),
        ("a b", ""),
        ("modes/x", ""),
        ("r.md", ""),
        ("ignored", ""),
        ("kept", ""),
        ("changed", "first\n"),
        // The one that is named after the Dockerfile counts.
        (".dockerignore", "kept\n"),
        ("Dockerfile.dockerignore", "ignored\n"),
    ] {
        fs::write(context.join(name), text).unwrap();
    }
    let mut tar = std::process::Command::new("tar");
    assert!(
        tar.arg("-C")
            .arg(context)
            .arg("-czf")
            .arg(context.join("t.tar.gz"))
            .arg("app")
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn what_docker_builds_is_built_and_the_next_build_takes_it_from_the_cache() {
    let Some(site) = Site::new() else { return };
    let context = site.dockerfile("cases", CASES);
    write_files(&context);
    let mut request = site.request(&context, "cases");
    request.egress = Egress::None;
    request.hooks.ready = None;
    request.cache = Some("cases".into());
    let (built, events) = site.build(&request).await;
    let image = built.unwrap();
    assert_eq!(sorted(&events.lines(LogStream::Snapshot)), sorted(&STAGES));
    // What it says for others is kept and not done: there is no such shell, and ONBUILD is for images that are built on this one.
    let kept = &image.manifest().app.container;
    for name in ["Healthcheck", "OnBuild", "Shell", "StopSignal", "Volumes"] {
        assert!(kept.contains_key(name), "{name} in {kept:?}");
    }
    fs::remove_dir_all(image.folder()).unwrap();

    // The cache between builds is in a test of failures, too.
    if !hearth_testing::full() {
        return;
    }
    // One file is another: what comes before it is not done again, and the cache mount is still there.
    fs::write(context.join("changed"), "second\n").unwrap();
    let cached = site.request(&context, "cases");
    request.artifact = cached.artifact;
    let (built, events) = site.build(&request).await;
    built.unwrap();
    let log = events.lines(LogStream::Build);
    assert!(log.iter().any(|line| line.ends_with(" the cache has first")), "{log:#?}");
    let times = log.iter().filter(|line| line.ends_with(" CACHED")).count();
    assert!(times > 30, "{times} steps from the cache in {log:#?}");
}

fn sorted<S: AsRef<str>>(lines: &[S]) -> Vec<&str> {
    let mut lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn what_a_dockerfile_may_not_do_is_told_in_one_line() {
    let Some(site) = Site::of_full_run() else { return };
    let cases = [
        (
            "syntax",
            "# syntax=r.example/other/frontend:1\nFROM hearth/debian:13\n",
            "The build failed before its first step: syntax=r.example/other/frontend:1 is not known here: leave the line out, or \
             write docker/dockerfile:1.",
        ),
        (
            "parents",
            "# syntax=docker/dockerfile:1-labs\nFROM hearth/debian:13\nCOPY --parents ./a/b /x/\n",
            "unknown flag: --parents. Write a COPY for each folder, with the folder in its target.",
        ),
        (
            "secret",
            "FROM hearth/debian:13\nRUN --mount=type=secret,id=tok,required=true cat /run/secrets/tok\n",
            "secret tok: not found. A build here is given no secrets: leave `required` out, and do without it.",
        ),
    ];
    for (name, text, told) in cases {
        let context = site.dockerfile(name, text);
        let mut request = site.request(&context, name);
        request.egress = Egress::None;
        let (built, events) = site.build(&request).await;
        let reason = built.unwrap_err().state_reason();
        assert!(reason.contains(told), "{reason}");
        assert!(events.lines(LogStream::Build).last().unwrap().contains(told), "{name}");
    }
}
