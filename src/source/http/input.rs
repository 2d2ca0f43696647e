//! HTTP bodies for streams, which block: a task fetches, a short channel lies between.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use reqwest::Response;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::AbortHandle,
};

use super::{
    HttpStore,
    client::{Client, Trouble},
    retry::Retry,
};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{ByteStore as _, Restart, SourceIdentity, num::to_u64, stream::Input, stream::Origin},
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
    pub(super) fn body(client: Client, mut response: Response, identity: SourceIdentity) -> Self {
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
                    Err(Trouble::Fatal(error) | Trouble::Transient { error, .. }) => {
                        break Message::Failed(broke(client.name()).with_source(error));
                    }
                }
            };
            // Nobody listens any more if this fails.
            let _listening = sender.send(message).await;
        })
    }

    /// The bytes of `store`, from the first to the last: a connection that breaks is continued.
    pub(in crate::source) fn store(store: Arc<HttpStore>) -> Self {
        let identity = store.client.identity(Some(store.size), &store.validators);
        Self::new(store.name(), identity, |sender| async move {
            let message = match send_all(&store, &sender).await {
                Ok(()) => Message::End,
                Err(error) => Message::Failed(error),
            };
            // Nobody listens any more if this fails.
            let _listening = sender.send(message).await;
        })
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

/// Sends the bytes of `store` to whoever listens.
async fn send_all(store: &HttpStore, sender: &Sender<Message>) -> Result<()> {
    let mut retry = Retry::new(&store.client, 0);
    let mut at = 0;
    while at < store.size {
        let before = at;
        let result = send_rest(store, sender, &mut at).await;
        retry.progress(usize::try_from(at - before).unwrap_or(usize::MAX));
        if sender.is_closed() {
            break;
        }
        if let Err(trouble) = result {
            retry.wait(trouble).await?;
        }
    }
    Ok(())
}

async fn send_rest(store: &HttpStore, sender: &Sender<Message>, at: &mut u64) -> Result<(), Trouble> {
    let mut response = store.get(*at, store.size).await?;
    while let Some(bytes) = store.client.chunk(&mut response).await? {
        let len = to_u64(bytes.len());
        if len > store.size - *at {
            return Err(Trouble::Fatal(Error::failed(format!(
                "the server of {} sends more than the {} bytes it announced",
                store.client.name(),
                store.size
            ))));
        }
        if sender.send(Message::Bytes(bytes)).await.is_err() {
            return Ok(());
        }
        *at += len;
    }
    if *at < store.size {
        let message = format!("the answer of {} ended {} bytes early", store.client.name(), store.size - *at);
        return Err(Trouble::transient(Error::new(ErrorKind::Network, message)));
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
        while self.at_hand.len() < len
            && let Some(bytes) = self.next()?
        {
            let mut joined = BytesMut::with_capacity(self.at_hand.len() + bytes.len());
            joined.extend_from_slice(&self.at_hand);
            joined.extend_from_slice(&bytes);
            self.at_hand = joined.freeze();
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
