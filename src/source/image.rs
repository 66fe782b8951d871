//! Which files change in place, block by block, as disk images do.
//!
//! Owns the guess from a name and a stat. Refuses to open the file: a wrong guess costs some deduplication, nothing else.

use super::stat::Stat;

/// A sparse file below this is too small to gain from fixed cuts.
const SPARSE_BYTES_MIN: u64 = 16 << 20;

const EXTENSIONS: [&[u8]; 7] = [b"img", b"raw", b"qcow2", b"vmdk", b"vdi", b"vhd", b"vhdx"];

/// Whether a regular file named `name` is to be cut in fixed blocks: it is called an image, or is large and has holes.
/// On a file system that compresses, every large file that compressed looks as if it had holes. A name does not count where
/// the file has several: cut in two ways, its names would not be known as one file when they are restored.
pub fn is_disk_image(name: &[u8], stat: &Stat) -> bool {
    if !stat.file_type.is_file() {
        return false;
    }
    (stat.nlink < 2 && is_image_name(name)) || (stat.size >= SPARSE_BYTES_MIN && stat.is_sparse())
}

/// Whether images are called so.
pub fn is_image_name(name: &[u8]) -> bool {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) => EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(&name[dot + 1..])),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::stat::stat_at;
    use rustix::fs::CWD;

    #[test]
    fn an_image_is_known_by_its_name_or_its_holes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut stat = stat_at(CWD, file.path(), false).unwrap();
        for name in [&b"disk.img"[..], b"VM.QCOW2", b"\xff.vhdx", b".raw"] {
            assert!(is_disk_image(name, &stat), "{name:?}");
        }
        for name in [&b"img"[..], b"photo.jpg", b"a.img.zst", b"a."] {
            assert!(!is_disk_image(name, &stat), "{name:?}");
        }
        let several = Stat { nlink: 2, ..stat };
        assert!(!is_disk_image(b"disk.img", &several), "its other name may be any");
        file.as_file().set_len(SPARSE_BYTES_MIN - 1).unwrap();
        stat = stat_at(CWD, file.path(), false).unwrap();
        assert!(!is_disk_image(b"data", &stat));
        file.as_file().set_len(SPARSE_BYTES_MIN).unwrap();
        stat = stat_at(CWD, file.path(), false).unwrap();
        assert!(is_disk_image(b"data", &stat));
    }

    #[test]
    fn a_directory_called_img_is_no_image() {
        let dir = tempfile::Builder::new().suffix(".img").tempdir().unwrap();
        assert!(!is_disk_image(b"x.img", &stat_at(CWD, dir.path(), false).unwrap()));
    }
}
