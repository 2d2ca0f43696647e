//! HTTP bodies for streams, which block: a task fetches, a short channel lies between.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use reqwest::Response;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::AbortHandle,
};

use super::{HttpStore, client::Client};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{
        ByteStore as _, Restart, SourceIdentity,
        num::{to_u64, to_usize},
        stream::{Input, Origin},
    },
};

/// A body from its first byte to its last.
#[derive(Debug)]
pub(in crate::source) struct HttpInput {
    origin: Origin,
    receiver: Receiver<Message>,
    task: AbortHandle,
    at_hand: Bytes,
    ended: bool,
    taken: u64,
}

#[derive(Debug)]
enum Message {
    Bytes(Bytes),
    /// The end of the body. A channel that just closes is none: the task was lost.
    End,
    Failed(Error),
}

impl HttpInput {
    /// The body of `response`. It cannot be continued when the connection breaks.
    pub(super) fn body(client: Arc<Client>, mut response: Response, identity: SourceIdentity) -> Self {
        let name = client.name().to_owned();
        Self::new(name, identity, |sender| async move {
            let message = loop {
                match client.chunk(&mut response).await {
                    Ok(Some(bytes)) => {
                        if sender.send(Message::Bytes(bytes)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break Message::End,
                    Err(trouble) => {
                        break Message::Failed(broke(client.name()).with_source(trouble.into_error()));
                    }
                }
            };
            // Nobody listens any more if this fails.
            let _listening = sender.send(message).await;
        })
    }

    /// The bytes of `store` from byte `from` to the last, fetched by ranges side by side: a connection
    /// that breaks is continued.
    pub(in crate::source) fn ranges(store: Arc<HttpStore>, from: u64) -> Result<Self> {
        let identity =
            store.identity().ok_or_else(|| Error::failed(format!("{} has no identity", store.name())))?;
        Ok(Self::new(store.name(), identity, |sender| async move {
            let message = match send_all(&store, from, &sender).await {
                Ok(()) => Message::End,
                Err(error) => Message::Failed(error),
            };
            // Nobody listens any more if this fails.
            let _listening = sender.send(message).await;
        }))
    }

    fn new<F: Future<Output = ()> + Send + 'static>(
        name: String,
        identity: SourceIdentity,
        fetch: impl FnOnce(Sender<Message>) -> F,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let task = tokio::spawn(fetch(sender)).abort_handle();
        let origin = Origin { name, identity: Some(identity), restart: Restart::FromStart };
        Self { origin, receiver, task, at_hand: Bytes::new(), ended: false, taken: 0 }
    }

    /// The next bytes of the body; `None` at its end.
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.receiver.blocking_recv() {
            Some(Message::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Message::End) => {
                self.ended = true;
                Ok(None)
            }
            Some(Message::Failed(error)) => Err(error),
            None => {
                Err(Error::new(ErrorKind::Interrupted, format!("fetching {} was given up", self.origin.name)))
            }
        }
    }
}

/// Sends the bytes of `store` from `from` on to whoever listens.
async fn send_all(store: &HttpStore, from: u64, sender: &Sender<Message>) -> Result<()> {
    let starts = (from..store.size).step_by(to_usize(RANGE_LEN));
    let mut ranges = stream::iter(starts)
        .map(|start| async move {
            let mut bytes = vec![0; to_usize(RANGE_LEN.min(store.size - start))];
            store.fetch(start, &mut bytes).await.map(|()| Bytes::from(bytes))
        })
        .buffered(store.connections);
    while let Some(bytes) = ranges.next().await {
        if sender.send(Message::Bytes(bytes?)).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn broke(name: &str) -> Error {
    Error::new(ErrorKind::Network, format!("the connection broke for {name}, which can only be read from its start"))
        .with_hint(
            "run the same command again: the stream restarts from its start; where there is a link to the raw disk, \
             that goes on from where it broke",
        )
}

impl Input for HttpInput {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn fill(&mut self) -> Result<&[u8]> {
        // Empty pieces of a body are possible, and no end.
        while self.at_hand.is_empty()
            && let Some(bytes) = self.next()?
        {
            self.at_hand = bytes;
        }
        Ok(&self.at_hand)
    }

    fn peek(&mut self, len: usize) -> Result<&[u8]> {
        if self.at_hand.len() < len {
            let mut joined = BytesMut::from(std::mem::take(&mut self.at_hand));
            let mut result = Ok(());
            while joined.len() < len {
                match self.next() {
                    Ok(Some(bytes)) => joined.extend_from_slice(&bytes),
                    Ok(None) => break,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            self.at_hand = joined.freeze();
            result?;
        }
        Ok(&self.at_hand)
    }

    fn consume(&mut self, len: usize) {
        let len = len.min(self.at_hand.len());
        self.at_hand.advance(len);
        self.taken += to_u64(len);
    }

    fn taken(&self) -> u64 {
        self.taken
    }

    /// A body without a length ends where the connection does: what is missing was lost on the way.
    fn cut_short(&self, format: &str) -> Error {
        let why = Error::failed(format!("its {format} stream does not end within {} bytes", self.taken));
        broke(&self.origin.name).with_source(why)
    }
}

impl Drop for HttpInput {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Pieces of a body that wait to be inflated. Each may pin half a MiB.
const CHUNKS_AHEAD: usize = 4;

/// Bytes of a range that waits for those before it; so many as there are connections may wait.
const RANGE_LEN: u64 = 1 << 20;
