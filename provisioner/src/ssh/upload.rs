//! Uploads by sftp.

use super::{Session, SshError};
use russh_sftp::client::SftpSession;
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

impl Session {
    /// Copies a file to a path on the machine, 0600 there. What was written of it is removed where it fails.
    pub(crate) async fn upload(
        &self,
        file: &Path,
        to: &str,
        mut progress: impl FnMut(u64),
    ) -> Result<(), SshError> {
        let failed = |source| SshError::Upload { path: file.display().to_string(), source };
        let local = |source| SshError::UploadIo { path: file.display().to_string(), source };
        let mut source = tokio::fs::File::open(file).await.map_err(local)?;
        let channel = self.open().await?;
        channel.request_subsystem(true, "sftp").await?;
        let sftp = SftpSession::new(channel.into_stream()).await.map_err(failed)?;
        sftp.set_timeout(60);
        let written = async {
            let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
            let attributes = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
            let mut target =
                sftp.open_with_flags_and_attributes(to, flags, attributes).await.map_err(failed)?;
            let (mut buffer, mut done) = (vec![0; 256 * 1024], 0);
            loop {
                let read = source.read(&mut buffer).await.map_err(local)?;
                if read == 0 {
                    break;
                }
                target.write_all(&buffer[..read]).await.map_err(local)?;
                done += read as u64;
                progress(done);
            }
            target.close().await.map_err(local)
        };
        let written = written.await;
        if written.is_err() {
            // It may be what fills the disk.
            let _ = sftp.remove_file(to).await;
        }
        let _ = sftp.close().await;
        written
    }
}
