//! A guest that boots in seconds: Debian's cloud kernel with an initramfs of busybox. It takes an address, serves
//! pages on ports 80 and 81, and powers off when asked to. Its disk is empty but for a partition table's signature.

use drivers::driver::{FlagValues, Keys};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_net", "evdev", "button", "af_packet"];

const INIT: &str = r#"#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
while read -r module; do $bb insmod "/modules/$module"; done < /modules/order
$bb ip link set lo up
$bb ip link set eth0 up
$bb ip addr add 10.0.2.15/24 dev eth0
$bb ip route add default via 10.0.2.2
for port in 80 81; do
    $bb mkdir -p /www/$port
    $bb echo "port $port" > /www/$port/index.html
    $bb httpd -p $port -h /www/$port
done
$bb echo "tiny guest is up"
exec $bb acpid -d -c /etc/acpi -p /acpid.pid -l /dev/null
"#;

/// The files that the guest boots from.
#[derive(Debug)]
pub(crate) struct Tiny {
    pub(crate) disk: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

impl Tiny {
    /// The guest, built once; `None` where the host cannot, with the reason printed.
    pub(crate) fn get() -> Option<&'static Self> {
        static TINY: OnceLock<Result<Tiny, String>> = OnceLock::new();
        if !super::host_with(&["qemu-img", "apt-get", "dpkg-deb", "busybox", "bash"]) {
            return None;
        }
        let built = TINY.get_or_init(|| build(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-guest")));
        built.as_ref().map_err(|reason| eprintln!("skipped: no tiny guest: {reason}")).ok()
    }

    /// Flags for a machine that boots it.
    pub(crate) fn flags(&self) -> FlagValues {
        let flag = |name: &str, value: &Path| (name.to_owned(), value.to_str().unwrap().to_owned());
        let mut flags = FlagValues::from([
            flag("qemu-image", &self.disk),
            flag("qemu-kernel", &self.kernel),
            flag("qemu-initrd", &self.initrd),
        ]);
        for (name, value) in
            [("qemu-accel", "tcg"), ("qemu-memory", "192"), ("qemu-cpu-count", "1"), ("qemu-disk-size", "16")]
        {
            flags.insert(name.into(), value.into());
        }
        flags.insert("qemu-append".into(), "console=ttyS0 quiet".into());
        flags
    }
}

/// Keys that nobody logs in with.
pub(crate) fn keys() -> Keys {
    Keys {
        authorized_key: "ssh-ed25519 AAAA user".into(),
        host_private_key: "-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n".into(),
        host_public_key: "ssh-ed25519 AAAA host".into(),
        files: Vec::new(),
    }
}

fn build(dir: &Path) -> Result<Tiny, String> {
    let tiny = Tiny { disk: dir.join("disk.raw"), kernel: dir.join("vmlinuz"), initrd: dir.join("initrd") };
    if tiny.initrd.exists() {
        return Ok(tiny);
    }
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir.join("root")).unwrap();
    let mut disk = vec![0u8; 1 << 20];
    disk[510..512].copy_from_slice(b"\x55\xaa");
    fs::write(&tiny.disk, disk).unwrap();
    fs::write(dir.join("init"), INIT).unwrap();
    fs::set_permissions(dir.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    // The initramfs comes last and by a rename: where it stands, the rest does too.
    let script = r#"
        set -euo pipefail
        PATH=$PATH:/usr/sbin:/sbin
        arch=$(dpkg --print-architecture)
        package=$(apt-cache depends "linux-image-cloud-$arch" | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -1)
        apt-get -q -q -o APT::Sandbox::User=root download "$package"
        dpkg-deb -x linux-image-*.deb unpacked
        version=$(ls unpacked/lib/modules)
        cp "unpacked/boot/vmlinuz-$version" vmlinuz
        depmod -b unpacked "$version"
        cd root
        mkdir -p bin dev proc sys modules etc/acpi/PWRF
        cp "$(command -v busybox)" bin/busybox
        mv ../init init
        printf '#!/bin/busybox sh\n/bin/busybox poweroff -f\n' > etc/acpi/PWRF/00000080
        chmod 755 etc/acpi/PWRF/00000080
        for module in "$@"; do
            modprobe -d ../unpacked --set-version "$version" --show-depends "$module" 2>/dev/null | sed -n 's/^insmod //p' || true
        done | awk '!seen[$1]++ { print $1 }' | while read -r file; do
            cp "$file" modules/
            basename "$file" >> modules/order
        done
        busybox find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > ../initrd.partial
        cd .. && rm -rf root unpacked ./*.deb
        mv initrd.partial initrd
    "#;
    let output =
        Command::new("bash").args(["-c", script, "tiny"]).args(MODULES).current_dir(dir).output().unwrap();
    if output.status.success() {
        Ok(tiny)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
