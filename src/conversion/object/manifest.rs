//! The manifest of an object, which may be longer than memory.

use std::io;

use bytes::Bytes;
use object_store::{ObjectStoreExt as _, PutPayload, WriteMultipart};
use tokio::sync::mpsc;

use super::ObjectPlace;
use crate::{
    error::{Error, Result},
    object::{Act, ObjectLocation, object_error},
};

impl ObjectPlace {
    /// Writes the manifest; `write` gives its bytes, on a thread where it may block.
    ///
    /// # Errors
    /// The store refuses, or `write` fails.
    pub(crate) async fn put_manifest<F>(&self, write: F) -> Result<ObjectLocation>
    where
        F: FnOnce(&mut dyn io::Write) -> Result<()> + Send + 'static,
    {
        let location = self.manifest();
        let failed = |error| object_error(&location, Act::Write, error);
        let (sender, mut receiver) = mpsc::channel(1);
        let writing = tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces { sender, piece: Vec::new() };
            write(&mut pieces)?;
            io::Write::flush(&mut pieces)
                .map_err(|error| Error::failed("cannot write the manifest").with_source(error))
        });
        let path = location.path()?;
        let first: Option<Bytes> = receiver.recv().await;
        let second = receiver.recv().await;
        match (first, second) {
            (Some(first), Some(second)) => {
                let upload = self.store.objects.put_multipart(&path).await.map_err(failed)?;
                let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE_LEN);
                let (mut next, mut then) = (Some(first), Some(second));
                let sent = async {
                    while let Some(piece) = next {
                        upload.wait_for_capacity(1).await.map_err(failed)?;
                        upload.put(piece);
                        next = match then.take() {
                            Some(piece) => Some(piece),
                            None => receiver.recv().await,
                        };
                    }
                    joined(writing).await
                };
                if let Err(error) = sent.await {
                    // Nobody goes on with it: a later run writes the manifest anew.
                    if let Err(left) = upload.abort().await {
                        tracing::warn!("parts of {location} may be left: {left}");
                    }
                    return Err(error);
                }
                upload.finish().await.map_err(failed)?;
            }
            (first, _) => {
                joined(writing).await?;
                let payload = PutPayload::from(first.unwrap_or_default());
                self.store.objects.put(&path, payload).await.map_err(failed)?;
            }
        }
        Ok(location)
    }
}

async fn joined(task: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
    task.await.map_err(|error| Error::failed("writing the manifest panicked").with_source(error))?
}

/// Collects what is written into pieces for a part each.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_LEN - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_LEN {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece).into();
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Bytes of a part of a manifest.
const PIECE_LEN: usize = 8 << 20;
