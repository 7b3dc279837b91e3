//! A small disk of a test's own, to be filled: a tmpfs with a limit.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    install::{self, make_folder},
    process::is_root,
    server::own_folder,
    servers::Servers,
};

/// What takes the space that is left.
const BALLAST: &str = "ballast";

/// A small disk of one's own. Its drop unmounts it, and what was on it is gone.
///
/// Where the process ends without that, the next `cargo xtask servers up` or `down` does it.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// A disk of so many MiB.
    ///
    /// # Errors
    ///
    /// A text that says why nothing can be mounted here.
    pub fn mount(size_mib: u32) -> Result<Self, String> {
        Self::mount_at(own_folder(&Servers::of_workspace(), "disk"), size_mib)
    }

    pub(crate) fn mount_at(folder: PathBuf, size_mib: u32) -> Result<Self, String> {
        if !is_root() {
            return Err("a small disk is mounted, which only root may do".to_owned());
        }
        make_folder(&folder)?;
        let size = format!("size={size_mib}m,mode=755");
        install::run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small-disk"]).arg(&folder))?;
        Ok(Self { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes all the space that is left.
    ///
    /// # Errors
    ///
    /// Any but that there is no more space.
    pub fn fill(&self) -> io::Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.ballast())?;
        // The last ones take what is less than a page of the first.
        for size in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; size];
            loop {
                match ballast.write(&zeros) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Errors
    ///
    /// When it was not filled.
    pub fn free(&self) -> io::Result<()> {
        // A child that another thread starts right now has the file open too, until it is another
        // program: removed alone, the file would keep its space until then.
        File::options().write(true).open(self.ballast())?.set_len(0)?;
        fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join(BALLAST)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.folder);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Unmounts what is mounted there, if anything is; whoever has a file of it open keeps that alone.
pub(crate) fn unmount(folder: &Path) {
    let _ = install::run(Command::new("umount").arg("--lazy").arg(folder));
}
