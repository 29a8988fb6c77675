//! Messages with descriptors over a unix socket (SCM_RIGHTS, unix(7)): a length of four bytes in network order, as many
//! bytes of text, and one byte for each run of descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Longest text, in bytes.
const LONGEST: usize = 4 << 20;
/// Descriptors in a run. The kernel takes 253 (SCM_MAX_FD).
const RUN: usize = 64;
/// Most descriptors in a message.
const MOST: usize = 8192;

/// Sends `text` and then `descriptors`, whose number the text has to tell.
///
/// # Errors
/// Those of sendmsg(2), and a text that is too long.
pub fn send<D: AsFd>(mut stream: &UnixStream, text: &[u8], descriptors: &[D]) -> io::Result<()> {
    if text.len() > LONGEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    stream.write_all(&(text.len() as u32).to_be_bytes())?;
    stream.write_all(text)?;
    for run in descriptors.chunks(RUN) {
        let run: Vec<BorrowedFd<'_>> = run.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RUN))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&run));
        sendmsg(
            stream,
            &[IoSlice::new(&[0])],
            &mut rights,
            SendFlags::NOSIGNAL,
        )?;
    }
    Ok(())
}

/// The text of the next message.
///
/// # Errors
/// Those of read(2); the other end is gone; a text that is too long.
pub fn receive(mut stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok(text)
}

/// The `number` descriptors that follow a text.
///
/// # Errors
/// Those of recvmsg(2); fewer descriptors than that have come, as this process may have too many open.
pub fn receive_descriptors(stream: &UnixStream, number: usize) -> io::Result<Vec<OwnedFd>> {
    if number > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut received = Vec::with_capacity(number);
    while received.len() < number {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RUN))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let message = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut byte)],
            &mut rights,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let before = received.len();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                received.extend(descriptors);
            }
        }
        if message.bytes == 0 || received.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn text_and_descriptors_arrive_in_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let files: Vec<tempfile::NamedTempFile> = (0..2 * RUN + 3)
            .map(|_| tempfile::NamedTempFile::new().unwrap())
            .collect();
        let inode = |file: &File| file.metadata().unwrap().ino();
        let expected: Vec<u64> = files.iter().map(|file| inode(file.as_file())).collect();
        let sender = std::thread::spawn(move || {
            send(&one, b"first", &files).unwrap();
            send::<OwnedFd>(&one, b"second", &[]).unwrap();
        });
        assert_eq!(receive(&other).unwrap(), b"first");
        let received = receive_descriptors(&other, expected.len()).unwrap();
        let received: Vec<u64> = received.into_iter().map(|fd| inode(&fd.into())).collect();
        assert_eq!(received, expected);
        assert_eq!(receive(&other).unwrap(), b"second");
        sender.join().unwrap();
        assert!(receive(&other).is_err(), "the other end is gone");
    }

    #[test]
    fn message_that_is_too_long_or_cut_off_is_an_error() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert_eq!(
            receive(&other).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let (one, other) = UnixStream::pair().unwrap();
        send::<OwnedFd>(&one, b"x", &[]).unwrap();
        drop(one);
        assert_eq!(receive(&other).unwrap(), b"x");
        assert!(receive_descriptors(&other, 1).is_err());
    }
}
