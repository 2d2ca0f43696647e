//! A volume of an export: the same bytes behind a link with ranges and one that is compressed.

use std::sync::Arc;

use reqwest::{Response, header};
use tokio::runtime::Handle;

use super::{
    Endpoint, HttpInput, HttpOptions, HttpStore, Links,
    client::{Client, Trouble, Validators, header_text},
    connection::{Connection, Link},
    measure::{self, Faster},
    retry::Retry,
};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{
        ByteStore as _, ByteStream, OpenedSource, RawPlan, Restart, Source, SourceFormat, SourceIdentity,
        StreamChunk,
        num::{to_u64, to_usize},
        stream::{DiskStream, Gzip, Raw},
    },
};
use vmferry_formats::Format;

/// Which link of an export its bytes are fetched by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transfer {
    /// Whichever is found to be faster.
    #[default]
    Auto,
    /// The compressed one; what is missing when it breaks comes by ranges.
    Gzip,
    /// By ranges, side by side.
    Raw,
}

impl Transfer {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("raw", Self::Raw), ("gzip", Self::Gzip)];
}

/// Opens the disk that `links` lead to. `from_middle` says that an earlier run is taken up: then
/// ranges are taken if there are any, whatever `transfer` says.
///
/// # Errors
/// There is no link, or what is behind it cannot be used.
pub(in crate::source) async fn open_export(
    links: Arc<dyn Links>,
    transfer: Transfer,
    from_middle: bool,
    options: &HttpOptions,
) -> Result<OpenedSource> {
    let endpoint = links.endpoint(None).await?;
    let name = links.name();
    let raw = match &endpoint.raw {
        Some(_) => Some(Arc::new(raw_store(&links, &endpoint, options).await?)),
        None => None,
    };
    let by_gzip = match (&raw, &endpoint.gzip) {
        (None, None) => {
            return Err(Error::refused(format!("{name} is offered neither as raw nor as gzip")).with_hint(
                "it is no disk, or a file tree: look at the formats in the export's status.links",
            ));
        }
        (None, Some(_)) => {
            if transfer == Transfer::Raw {
                return Err(
                    Error::refused(format!("{name} is not offered as raw")).with_hint("take --transfer gzip")
                );
            }
            tracing::warn!(
                source = %name,
                "there is no raw link: the length of the disk is not known beforehand, and a broken transfer starts anew"
            );
            true
        }
        (Some(_), None) => {
            if transfer == Transfer::Gzip {
                return Err(
                    Error::refused(format!("{name} is not offered as gzip")).with_hint("take --transfer raw")
                );
            }
            false
        }
        (Some(_), Some(_)) if from_middle => false,
        (Some(store), Some(_)) => match transfer {
            Transfer::Gzip => true,
            Transfer::Raw => false,
            Transfer::Auto => {
                let connection = Connection::followed(Arc::clone(&links), Link::Gzip, &endpoint, options)?;
                measure::faster(store, &connection).await? == Faster::Gzip
            }
        },
    };
    let (format, source) = match raw {
        Some(store) if !by_gzip => {
            (SourceFormat::Image(Format::Raw), Source::Random(Box::new(RawPlan::new(store))))
        }
        raw => {
            let connection = Connection::followed(Arc::clone(&links), Link::Gzip, &endpoint, options)?;
            let stream = ExportStream::open(links, connection, raw).await?;
            (SourceFormat::Gzip, Source::Stream(Box::new(stream)))
        }
    };
    Ok(OpenedSource { name, format, info: None, warnings: Vec::new(), source })
}

/// HEAD tells the size, and in one go whether token, path and TLS are right.
async fn raw_store(links: &Arc<dyn Links>, endpoint: &Endpoint, options: &HttpOptions) -> Result<HttpStore> {
    let connection = Connection::followed(Arc::clone(links), Link::Raw, endpoint, options)?;
    let mut client = connection.client();
    let mut retry = Retry::new(&client, 0);
    let (size, validators) = loop {
        match head(&client).await {
            Ok(found) => break found,
            Err(trouble) => {
                connection.recover(&client, &mut retry, trouble).await?;
                client = connection.client();
            }
        }
    };
    Ok(HttpStore::new(connection, size, validators, options.connections))
}

async fn head(client: &Client) -> Result<(u64, Validators), Trouble> {
    let response = client.judge(client.head(client.url()).await?)?;
    let size = header_text(&response, &header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
    let size = size.ok_or_else(|| {
        Trouble::Wrong(Error::failed(format!("the server of {} does not tell its size", client.name())))
    })?;
    Ok((size, Validators::of(&response)))
}

/// The response of the compressed link, its body to come.
async fn get_gzip(connection: &Connection) -> Result<(Arc<Client>, Response)> {
    let mut client = connection.client();
    let mut retry = Retry::new(&client, 1);
    loop {
        match client.get(None, None).await {
            Ok(response) => return Ok((client, response)),
            Err(trouble) => {
                connection.recover(&client, &mut retry, trouble).await?;
                client = connection.client();
            }
        }
    }
}

/// The disk by its compressed link, and by ranges from where that breaks.
struct ExportStream {
    links: Arc<dyn Links>,
    connection: Connection,
    identity: SourceIdentity,
    raw: Option<Arc<HttpStore>>,
    part: Part,
    /// Bytes of the disk given out.
    done: u64,
    /// CRC-32C of them, where nothing else could tell that a stream that starts anew is the same.
    given: u32,
    /// Bytes of the bodies before the one that is read now.
    read_before: u64,
    restarts: u32,
    runtime: Handle,
}

enum Part {
    Compressed(DiskStream<Gzip>),
    Ranges(DiskStream<Raw>),
}

impl ExportStream {
    async fn open(
        links: Arc<dyn Links>,
        connection: Connection,
        raw: Option<Arc<HttpStore>>,
    ) -> Result<Self> {
        let identity = links.identity();
        let (client, response) = get_gzip(&connection).await?;
        let input = HttpInput::body(client, response, identity.clone());
        let size = raw.as_ref().map(|store| store.size());
        Ok(Self {
            links,
            connection,
            identity,
            raw,
            part: Part::Compressed(DiskStream::new(Box::new(input), Gzip::default(), size)),
            done: 0,
            given: 0,
            read_before: 0,
            restarts: 0,
            runtime: Handle::current(),
        })
    }

    fn part(&mut self) -> &mut dyn ByteStream {
        match &mut self.part {
            Part::Compressed(stream) => stream,
            Part::Ranges(stream) => stream,
        }
    }

    /// Goes on by ranges, or from the start where there are none.
    fn go_on(&mut self, error: Error) -> Result<()> {
        let Part::Compressed(_) = &self.part else { return Err(error) };
        if error.kind() == ErrorKind::Failed {
            // What came before may be spoilt too, and no later run may build on it.
            return Err(Error::new(ErrorKind::SourceChanged, error.to_string())
                .with_hint("start again with --transfer raw --restart")
                .with_source(error));
        }
        let is_broken = error.kind() == ErrorKind::Network
            || (error.kind() == ErrorKind::SourceChanged && self.raw.is_some());
        if !is_broken {
            return Err(error);
        }
        self.runtime.block_on(self.links.check_unchanged())?;
        self.read_before = self.bytes_read();
        let name = self.links.name();
        if let Some(store) = &self.raw {
            tracing::warn!(
                source = %name, at = self.done, %error,
                "the compressed stream broke: going on by ranges of the raw disk from there"
            );
            let _entered = self.runtime.enter();
            let input = HttpInput::ranges(Arc::clone(store), self.done)?;
            let left = store.size() - self.done;
            self.part = Part::Ranges(DiskStream::new(Box::new(input), Raw, Some(left)));
            return Ok(());
        }
        let mut error = error;
        while error.kind() == ErrorKind::Network && self.restarts < MAX_RESTARTS {
            self.restarts += 1;
            tracing::warn!(
                source = %name, at = self.done, %error,
                "the compressed stream broke, and there is no raw link: it starts anew"
            );
            match self.start_anew() {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
        Err(error)
    }

    /// Reads the stream from its start up to where the last one broke.
    fn start_anew(&mut self) -> Result<()> {
        let (client, response) = self.runtime.block_on(get_gzip(&self.connection))?;
        let _entered = self.runtime.enter();
        let input = HttpInput::body(client, response, self.identity.clone());
        let mut stream = DiskStream::new(Box::new(input), Gzip::default(), None);
        let (mut again, mut crc, mut buffer) = (0, 0, vec![0; SKIP_LEN]);
        while again < self.done {
            let len = to_usize((self.done - again).min(to_u64(buffer.len())));
            match stream.next_chunk(&mut buffer[..len])? {
                StreamChunk::Data { len, .. } => {
                    crc = crc32c::crc32c_append(crc, &buffer[..len]);
                    again += to_u64(len);
                }
                StreamChunk::End | StreamChunk::Zero { .. } => break,
            }
        }
        if again != self.done || crc != self.given {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                format!("{} holds other bytes than before it broke", self.links.name()),
            )
            .with_hint("start again with what is there now: --restart"));
        }
        self.part = Part::Compressed(stream);
        Ok(())
    }
}

impl ByteStream for ExportStream {
    fn name(&self) -> String {
        self.links.name()
    }

    fn size(&self) -> Option<u64> {
        self.raw.as_ref().map(|store| store.size())
    }

    fn identity(&self) -> Option<SourceIdentity> {
        Some(self.identity.clone())
    }

    fn restart(&self) -> Restart {
        Restart::FromStart
    }

    fn next_chunk(&mut self, buffer: &mut [u8]) -> Result<StreamChunk> {
        loop {
            match self.part().next_chunk(buffer) {
                Ok(StreamChunk::Data { len, holes }) => {
                    if self.raw.is_none() {
                        self.given = crc32c::crc32c_append(self.given, &buffer[..len]);
                    }
                    self.done += to_u64(len);
                    return Ok(StreamChunk::Data { len, holes });
                }
                Ok(StreamChunk::End) => {
                    self.runtime.block_on(self.links.check_unchanged())?;
                    return Ok(StreamChunk::End);
                }
                Ok(zero @ StreamChunk::Zero { .. }) => return Ok(zero),
                Err(error) => self.go_on(error)?,
            }
        }
    }

    fn bytes_read(&self) -> u64 {
        self.read_before
            + match &self.part {
                Part::Compressed(stream) => stream.bytes_read(),
                Part::Ranges(stream) => stream.bytes_read(),
            }
    }
}

/// A stream that cannot be continued is read again so often.
const MAX_RESTARTS: u32 = 5;

/// Bytes inflated at once of what was had before.
const SKIP_LEN: usize = 1 << 20;
