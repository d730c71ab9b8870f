//! Roots in every form that `build` takes, made by the tools that make them, and in forms that nobody should make.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// A folder with a small root file system in it.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: TempDir::new().unwrap() };
        for folder in ["root/usr/bin", "root/usr/lib/modules", "root/boot", "root/etc", "root/aaaa/bbbb/cccc"] {
            fs::create_dir_all(bench.path(folder)).unwrap();
        }
        let library = [&b"\x7fELF"[..], &(0..700_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()].concat();
        for (name, content, mode) in [
            ("usr/bin/tool", &b"\x7fELF tool"[..], 0o755),
            ("usr/bin/script", b"#!/bin/sh\necho\n", 0o644),
            ("usr/bin/plain", b"neither, but with the bit", 0o700),
            ("usr/lib/library.so", &library, 0o644),
            ("usr/lib/copy-of-tool", b"\x7fELF tool", 0o644),
            ("usr/lib/data", b"nothing that runs", 0o644),
            ("usr/lib/modules/plain.ko", b"\x7fELF module", 0o644),
            ("etc/ld.so.preload", b"/usr/lib/library.so\n", 0o644),
            ("etc/other", b"words", 0o644),
            ("boot/initrd", b"0707010000", 0o644),
        ] {
            bench.write(&format!("root/{name}"), content, mode);
        }
        let module = [&b"\x7fELF"[..], &[7; 5000]].concat();
        bench.write("module", &module, 0o644);
        for (tool, name) in [("gzip", "a.ko.gz"), ("xz", "b.ko.xz"), ("zstd", "c.ko.zst")] {
            let packed = bench.tool(tool, &["-c", "module"]).stdout;
            bench.write(&format!("root/usr/lib/modules/{name}"), &packed, 0o644);
            // The same in a place and by a name that say nothing.
            bench.write(&format!("root/usr/lib/{}", &name[..1]), &[packed, b"\0".repeat(4)].concat(), 0o644);
        }
        fs::hard_link(bench.path("root/usr/lib/library.so"), bench.path("root/usr/bin/a-link")).unwrap();
        // In no order that a disk would keep.
        for n in [7, 3, 11, 0, 15, 5, 1, 14, 2, 9, 13, 4, 8, 12, 6, 10] {
            match n {
                7 => bench.write("root/usr/lib/n-07", b"#!linked", 0o644),
                _ => fs::hard_link(bench.path("root/usr/lib/n-07"), bench.path(&format!("root/usr/lib/n-{n:02}")))
                    .unwrap(),
            }
        }
        symlink("/etc", bench.path("root/outside")).unwrap();
        symlink("loop", bench.path("root/loop")).unwrap();
        let pipe = bench.path("root/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o755.into(), 0).unwrap();
        let sparse = fs::File::create(bench.path("root/usr/lib/sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a tool of the system, which must succeed.
    fn tool(&self, name: &str, arguments: &[&str]) -> Output {
        let output = Command::new(name).args(arguments).current_dir(self.folder.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn build(&self, root: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_reference-values"))
            .args(["build", "--product", "p", "--release", "1", "--sequence", "1", "-o", "out", "--rootfs", root])
            .current_dir(self.folder.path())
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
    }

    /// Measures what must be measurable: the release.
    fn release(&self, root: &str) -> Vec<u8> {
        let output = self.build(root);
        assert_eq!(output.status.code(), Some(0), "{root}: {}", String::from_utf8_lossy(&output.stderr));
        let release = fs::read(self.path("out")).unwrap();
        fs::remove_file(self.path("out")).unwrap();
        release
    }

    /// Measures what must be refused with this exit code, the words in its message, and nothing written.
    fn refused(&self, root: &str, code: i32, words: &[&str]) {
        let output = self.build(root);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{root}: {message}");
        let missing = words.iter().find(|word| !message.contains(**word));
        assert!(missing.is_none() && !message.contains("panicked"), "{root} {missing:?}: {message}");
        assert!(!self.path("out").exists());
    }

    /// Makes a squashfs image of `root`, with what it tells of folders not compressed.
    fn squashfs(&self, name: &str, options: &[&str]) {
        self.tool("mksquashfs", &[&["root", name, "-quiet", "-no-progress", "-noappend"], options].concat());
    }

    fn ext4(&self, name: &str) {
        let file = fs::File::create(self.path(name)).unwrap();
        file.set_len(32 << 20).unwrap();
        self.tool("mkfs.ext4", &["-q", "-d", "root", name]);
    }
}

#[test]
fn every_form_of_a_root_gives_the_same_release() {
    let bench = Bench::new();
    let folder = bench.release("root");
    let text = String::from_utf8_lossy(&folder).into_owned();
    for listed in
        ["/usr/bin/a-link", "/usr/bin/plain", "/usr/lib/modules/a.ko.gz", "/usr/lib/b", "/etc/ld.so.preload", "n-00"]
    {
        assert!(text.contains(listed), "{listed}");
    }
    for unlisted in ["library.so", "data", "sparse", "other", "copy-of-tool", "pipe", "outside", "n-01", "n-07"] {
        assert!(!text.contains(unlisted), "{unlisted}");
    }
    for options in [&["--format=gnu"][..], &["--format=posix"], &["--format=gnu", "--sparse"], &["--sort=name"]] {
        bench.tool("tar", &[options, &["-C", "root", "-cf", "x.tar", "."]].concat());
        assert_eq!(bench.release("x.tar"), folder, "tar {options:?}");
    }
    for tool in ["gzip", "xz", "zstd"] {
        bench.write("packed", &bench.tool(tool, &["-1", "-c", "x.tar"]).stdout, 0o644);
        assert_eq!(bench.release("packed"), folder, "{tool}");
    }
    bench.ext4("x.ext4");
    assert_eq!(bench.release("x.ext4"), folder, "ext4");
    for compression in ["gzip", "xz", "lz4", "zstd"] {
        bench.squashfs("x.squashfs", &["-comp", compression]);
        assert_eq!(bench.release("x.squashfs"), folder, "squashfs {compression}");
    }
}

#[test]
fn a_package_holds_its_files_and_the_scripts_that_dpkg_keeps() {
    let bench = Bench::new();
    fs::create_dir(bench.path("root/DEBIAN")).unwrap();
    let control = b"Package: gate-way\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nMaintainer: A <a@example>\nDescription: d\n";
    bench.write("root/DEBIAN/control", control, 0o644);
    bench.write("root/DEBIAN/postinst", b"#!/bin/sh\ntrue\n", 0o755);
    fs::remove_file(bench.path("root/pipe")).unwrap();
    for compression in ["-Znone", "-Zgzip", "-Zxz", "-Zzstd"] {
        if compression == "-Zzstd" && !bench.tool("dpkg-deb", &["--help"]).stdout.windows(4).any(|word| word == b"zstd")
        {
            continue;
        }
        bench.tool("dpkg-deb", &[compression, "--root-owner-group", "-b", "root", "x.deb"]);
        let text = String::from_utf8_lossy(&bench.release("x.deb")).into_owned();
        for listed in ["/usr/bin/a-link", "/var/lib/dpkg/info/gate-way:amd64.postinst", "/usr/lib/modules/b.ko.xz"] {
            assert!(text.contains(listed), "{compression} {listed}");
        }
    }
    let deb = fs::read(bench.path("x.deb")).unwrap();
    // The last byte may be padding.
    for cut in [8, 40, 100, deb.len() / 2, deb.len() - 2] {
        bench.write("cut", &deb[..cut], 0o644);
        bench.refused("cut", 6, &["cut: "]);
    }
}

/// Damage is an error of the image, or of none of what counts in it; it never ends the program otherwise.
#[test]
fn a_damaged_image_is_refused_or_read() {
    let bench = Bench::new();
    bench.tool("tar", &["-C", "root", "-cf", "x.tar", "."]);
    bench.write("x.tar.xz", &bench.tool("xz", &["-1", "-c", "x.tar"]).stdout, 0o644);
    bench.ext4("x.ext4");
    bench.squashfs("x.squashfs", &["-comp", "zstd"]);
    bench.squashfs("plain.squashfs", &["-comp", "gzip", "-noI", "-noD", "-noF"]);
    for name in ["x.tar", "x.tar.xz", "x.ext4", "x.squashfs", "plain.squashfs"] {
        let good = fs::read(bench.path(name)).unwrap();
        for cut in [0, 1, 600, 1500, good.len() / 3] {
            bench.write("bad", &good[..cut], 0o644);
            bench.refused("bad", 6, &["bad: "]);
        }
        // Where the kinds keep what they tell of themselves: at the beginning, and squashfs at the end.
        let dense = good.len().min(4096) / 64;
        let places = (0..24).map(|n| n * dense).chain((1..24).map(|n| good.len() - n * 60 - 1));
        for at in places.chain((1..8).map(|n| good.len() / 8 * n)) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            bench.write("bad", &bad, 0o644);
            let output = bench.build("bad");
            let message = String::from_utf8_lossy(&output.stderr);
            let outcome = output.status.code();
            assert!(matches!(outcome, Some(0 | 2 | 6)) && !message.contains("panicked"), "{name} byte {at}: {message}");
            assert_eq!(bench.path("out").exists(), outcome == Some(0), "{name} byte {at}");
            let _ = fs::remove_file(bench.path("out"));
        }
    }
    bench.refused("module", 6, &["neither a tar"]);
}

#[test]
fn folders_that_contain_themselves_end_the_build() {
    let bench = Bench::new();
    bench.ext4("x.ext4");
    bench.tool("debugfs", &["-w", "-R", "link /aaaa /aaaa/bbbb/loop", "x.ext4"]);
    bench.refused("x.ext4", 6, &["x.ext4", "deeper than"]);

    bench.squashfs("x.squashfs", &["-noI", "-noD", "-noF"]);
    let mut image = fs::read(bench.path("x.squashfs")).unwrap();
    // A folder's entry: place, number less the header's, kind, length of the name, name. The header before the first
    // entry ends with that number.
    let at = |name: &[u8]| image.windows(name.len()).position(|window| window == name).unwrap();
    let (outer, inner) = (at(b"aaaa"), at(b"cccc"));
    let number = |image: &[u8], header: usize| i32::from_le_bytes(image[header..header + 4].try_into().unwrap());
    let outer = number(&image, outer - 12) + i32::from(i16::from_le_bytes([image[outer - 6], image[outer - 5]]));
    let step = i16::try_from(outer - number(&image, inner - 12)).unwrap();
    image[inner - 6..inner - 4].copy_from_slice(&step.to_le_bytes());
    bench.write("x.squashfs", &image, 0o644);
    bench.refused("x.squashfs", 6, &["x.squashfs", "within itself"]);
}

/// One entry of a tar, with its name as it is.
fn entry(name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let padding = content.len().next_multiple_of(512) - content.len();
    [&header.as_bytes()[..], content, &vec![0; padding]].concat()
}

#[test]
fn a_tar_says_nothing_of_what_is_outside() {
    use tar::EntryType as Is;
    let bench = Bench::new();
    let tool = entry("./bin/tool", Is::Regular, "", b"\x7fELF tool");
    let end = [0; 1024];
    let tar = |entries: &[Vec<u8>]| bench.write("x.tar", &[&entries.concat(), &end[..]].concat(), 0o644);
    for (other, words) in [
        (entry("a/../../etc/passwd", Is::Regular, "", b"x"), &["a/../../etc/passwd", ".."][..]),
        (entry("/etc/passwd", Is::Regular, "", b"x"), &["/etc/passwd", "absolute"]),
        (entry("out", Is::Link, "/etc/passwd", b""), &["/out", "/etc/passwd"]),
        (entry("out", Is::Link, "../outside", b""), &["/out", "../outside"]),
        (entry("self", Is::Link, "self", b""), &["/self", "hard link"]),
    ] {
        tar(&[tool.clone(), other]);
        bench.refused("x.tar", 6, &[&["x.tar"], words].concat());
    }
    // A tar within is a file like others, and without its bit one that does not run.
    let inner = [entry("inner", Is::Regular, "", b"#!inner"), end.to_vec()].concat();
    tar(&[
        entry("./bin/tool", Is::Regular, "", b"\x7fELF replaced"),
        tool.clone(),
        entry("disk", Is::Block, "", b""),
        entry("pipe", Is::Fifo, "", b""),
        entry("round", Is::Symlink, "round", b""),
        entry("away", Is::Regular, "", b"#!away"),
        entry("away", Is::Symlink, "tool", b""),
        entry("bin/again", Is::Link, "bin/tool", b""),
        entry("nested.tar", Is::Regular, "", &inner),
    ]);
    let shown = String::from_utf8_lossy(&bench.release("x.tar")).into_owned();
    assert!(shown.contains("/bin/again") && shown.contains("/nested.tar"), "{shown}");
    assert!(!shown.contains("away") && !shown.contains("inner") && !shown.contains("disk"), "{shown}");
    // Cut at the end of an entry, where no length tells.
    bench.write("x.tar", &tool, 0o644);
    bench.refused("x.tar", 6, &["x.tar", "truncated"]);
    let long = entry("long", Is::GNULongName, "", &vec![b'a'; 3 << 20]);
    tar(&[long, tool]);
    bench.refused("x.tar", 6, &["x.tar", "a name of more than"]);
}

#[test]
fn a_hundred_gigabytes_of_nothing_cost_nothing_and_are_refused_where_they_run() {
    let bench = Bench::new();
    let sparse = fs::File::create(bench.path("root/usr/lib/sparse")).unwrap();
    sparse.set_len(100 << 30).unwrap();
    let folder = bench.release("root");
    let tar = |bench: &Bench| bench.tool("tar", &["--format=gnu", "--sparse", "-C", "root", "-cf", "x.tar", "."]);
    tar(&bench);
    assert_eq!(bench.release("x.tar"), folder);
    assert!(fs::metadata(bench.path("x.tar")).unwrap().size() < 10 << 20);
    sparse.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    bench.refused("root", 2, &["root/usr/lib/sparse", "executable bit"]);
    tar(&bench);
    bench.refused("x.tar", 2, &["x.tar: /usr/lib/sparse", "executable bit"]);
}

#[test]
fn holes_in_what_runs_are_hashed_as_zeros() {
    let bench = Bench::new();
    let holes = fs::File::create(bench.path("root/usr/lib/holes.so")).unwrap();
    for n in 0..40_u64 {
        std::os::unix::fs::FileExt::write_all_at(&holes, b"\x7fELF", n << 16).unwrap();
    }
    holes.set_len(3 << 20).unwrap();
    let folder = bench.release("root");
    bench.tool("tar", &["--format=gnu", "--sparse", "-C", "root", "-cf", "x.tar", "."]);
    assert_eq!(bench.release("x.tar"), folder);
    bench.tool("tar", &["--format=posix", "--sparse", "-C", "root", "-cf", "x.tar", "."]);
    bench.refused("x.tar", 6, &["x.tar", "without --sparse"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let bench = Bench::new();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(bench.folder.path(), open).unwrap();
    bench.write("root/usr/bin/secret", b"#!secret", 0o000);
    let program = bench.path("reference-values");
    fs::copy(env!("CARGO_BIN_EXE_reference-values"), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["build", "--product", "p", "--release", "1", "-o", "/dev/null", "--rootfs", "root"]);
    command.current_dir(bench.folder.path());
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        // Nobody, for whom permissions count.
        command.uid(65534).gid(65534);
        fs::set_permissions(bench.path("root/usr/bin/plain"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("root/usr/bin/secret") && message.contains("as its owner"), "{message}");
    assert!(Path::new("/dev/null").exists());
}

#[test]
fn what_is_no_root_is_refused() {
    let bench = Bench::new();
    bench.refused("root/pipe", 2, &["root/pipe", "neither a folder nor a file"]);
    bench.refused("/dev/null", 2, &["/dev/null"]);
    bench.refused("root/usr/lib/data", 6, &["root/usr/lib/data"]);
}

#[test]
fn other_digests_and_the_update_window_are_in_the_release() {
    let bench = Bench::new();
    let program = env!("CARGO_BIN_EXE_reference-values");
    let named = ["--product", "p", "--release", "1", "-o", "out"];
    let asked = ["build", "--rootfs", "root", "--digests", "sha512,sha1", "--update-window", "36h"];
    bench.tool(program, &[&asked[..], &named].concat());
    let shown = bench.tool(program, &["show", "out", "--json"]).stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["update_window_seconds"], 36 * 3600);
    assert_eq!(shown["boot_images"][0]["kind"], "initrd");
    let files = shown["executables"].as_array().unwrap();
    let tool = files.iter().find(|file| file["path"] == "/usr/bin/tool").unwrap();
    let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, b"\x7fELF tool");
    assert_eq!(tool["sha1"], data_encoding::HEXLOWER.encode(sha1.as_ref()));
    assert!(files.iter().all(|file| file["sha512"].is_string() && file.get("sha384").is_none()));
}
