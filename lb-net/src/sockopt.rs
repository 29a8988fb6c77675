//! Options of TCP sockets that the crates for them do not know (tcp(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use nix::libc::{self, c_int, socklen_t};

/// Bytes of the network and TCP headers that are asked for at most.
const LONGEST_HEADER: usize = 512;

/// Has a listener keep the headers of the SYN of each connection (since Linux 4.2).
pub fn save_syn(listener: &impl AsFd) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the option is an integer, passed by its pointer and size.
    let done = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVE_SYN,
            (&raw const on).cast(),
            size_of_val(&on) as socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The headers of the SYN that a connection began with. The kernel gives them once, if the listener
/// was told to [`save_syn`] and the SYN was not answered with a SYN cookie.
pub fn saved_syn(stream: &impl AsFd) -> Option<Vec<u8>> {
    let mut header = [MaybeUninit::<u8>::uninit(); LONGEST_HEADER];
    let length = get(stream.as_fd(), libc::TCP_SAVED_SYN, &mut header)?;
    // SAFETY: the kernel has written `length` bytes.
    let written = unsafe { header[..length].assume_init_ref() };
    (!written.is_empty()).then(|| written.to_vec())
}

/// Time since a connection has sent or received data.
pub fn idle(stream: BorrowedFd<'_>) -> Option<Duration> {
    let mut place = [MaybeUninit::<u8>::uninit(); size_of::<libc::tcp_info>()];
    let length = get(stream, libc::TCP_INFO, &mut place)?;
    // SAFETY: the kernel has written `length` bytes.
    let written = unsafe { place[..length].assume_init_ref() };
    let field = |offset: usize| {
        let bytes = written.get(offset..)?.first_chunk()?;
        Some(u64::from(u32::from_ne_bytes(*bytes)))
    };
    let sent = field(std::mem::offset_of!(libc::tcp_info, tcpi_last_data_sent))?;
    let received = field(std::mem::offset_of!(libc::tcp_info, tcpi_last_data_recv))?;
    Some(Duration::from_millis(sent.min(received)))
}

/// Has the kernel write an option into `place`, and returns the number of bytes written.
fn get(stream: BorrowedFd<'_>, option: c_int, place: &mut [MaybeUninit<u8>]) -> Option<usize> {
    let mut length = place.len() as socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the room there is.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            place.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (done == 0).then(|| (length as usize).min(place.len()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_syn_is_kept_and_given_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        save_syn(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(saved_syn(&stream).unwrap()[0], 0x45);
        assert_eq!(saved_syn(&stream), None);
    }

    #[test]
    fn data_in_either_direction_ends_idleness() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let pause = Duration::from_millis(300);
        for turn in 0..2 {
            std::thread::sleep(pause);
            let before = idle(stream.as_fd()).unwrap();
            assert!(before >= pause / 2, "{before:?}");
            match turn {
                0 => client.write_all(b"1").unwrap(),
                _ => stream.write_all(b"1").unwrap(),
            }
            let after = idle(stream.as_fd()).unwrap();
            assert!(after < before, "{after:?} after {before:?}");
        }
    }
}
