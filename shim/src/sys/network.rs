//! Sockets: their options, the one that listens, and a descriptor sent over another.

use core::mem;
use core::net::IpAddr;

use super::{Fd, Result, call, fd_result, number, scalar};

/// Brings the interface `lo` of our network namespace up: SIOCSIFFLAGS of netdevice(7).
pub fn bring_loopback_up() -> Result<()> {
    let domain = number(libc::AF_INET);
    let kind = number(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
    let socket = fd_result(scalar(libc::SYS_socket, [domain, kind, 0, 0, 0]))?;
    // struct ifreq: name (16 bytes), flags (a short), padding to 40 bytes.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    let at = request.as_ptr() as usize;
    // SAFETY: the kernel reads one struct ifreq, 40 bytes.
    unsafe {
        call(libc::SYS_ioctl, [number(socket.number()), libc::SIOCSIFFLAGS as usize, at, 0, 0, 0])
    }
    .map(drop)
}

/// getsockopt(2) for an option of SOL_SOCKET that is one int.
pub fn socket_option(fd: i32, option: i32) -> Result<i32> {
    let (mut value, mut length) = (0_i32, 4_u32);
    let (value_at, length_at) = (&raw mut value as usize, &raw mut length as usize);
    let level = number(libc::SOL_SOCKET);
    // SAFETY: the kernel writes one int at most, as `length` says, and the length.
    unsafe {
        call(libc::SYS_getsockopt, [number(fd), level, number(option), value_at, length_at, 0])
    }?;
    Ok(value)
}

/// Whether `fd` is an AF_UNIX socket: getsockopt(2) SO_DOMAIN.
pub fn is_local_socket(fd: i32) -> bool {
    socket_option(fd, libc::SO_DOMAIN) == Ok(libc::AF_UNIX)
}

/// The effective uid of whoever connected, listened or made the pair at the other end: SO_PEERCRED.
pub fn peer_uid(fd: i32) -> Result<u32> {
    // struct ucred: pid, uid, gid. Before there is a peer they are 0, -1, -1.
    let (mut peer, mut length) = ([0_u32; 3], 12_u32);
    let (peer_at, length_at) = (peer.as_mut_ptr() as usize, &raw mut length as usize);
    let (level, option) = (number(libc::SOL_SOCKET), number(libc::SO_PEERCRED));
    // SAFETY: the kernel writes one struct ucred at most, as `length` says, and the length.
    unsafe { call(libc::SYS_getsockopt, [number(fd), level, option, peer_at, length_at, 0]) }?;
    Ok(peer[1])
}

/// Whether the socket is connected: getpeername(2).
pub fn is_connected(fd: i32) -> bool {
    // struct sockaddr_un has 110 bytes.
    let (mut name, mut length) = ([0_u8; 112], 112_u32);
    let (name_at, length_at) = (name.as_mut_ptr() as usize, &raw mut length as usize);
    // SAFETY: the kernel writes at most `length` bytes of a name, and the length.
    unsafe { call(libc::SYS_getpeername, [number(fd), name_at, length_at, 0, 0, 0]) }.is_ok()
}

/// socket(2): TCP of the family of `address`, for IPv6 without IPv4.
///
/// SO_REUSEADDR, so that connections which linger from a server before do not keep its port from the
/// next one; it does not take a port from a socket that listens. Never SO_REUSEPORT, which would.
pub fn tcp_socket(address: IpAddr) -> Result<Fd> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let kind = number(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    let tcp = number(libc::IPPROTO_TCP);
    let socket = fd_result(scalar(libc::SYS_socket, [number(family), kind, tcp, 0, 0]))?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    if address.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)?;
    }
    Ok(socket)
}

/// setsockopt(2): switches an option on.
pub fn set_option(socket: &Fd, level: i32, option: i32) -> Result<()> {
    let on = 1_i32;
    let (level, option, at) = (number(level), number(option), &raw const on as usize);
    // SAFETY: the kernel reads one int.
    unsafe { call(libc::SYS_setsockopt, [number(socket.number()), level, option, at, 4, 0]) }
        .map(drop)
}

/// bind(2).
pub fn bind(socket: &Fd, address: IpAddr, port: u16) -> Result<()> {
    // sockaddr_in: family, port, address, 8 bytes of nothing. sockaddr_in6: family, port, flow label,
    // address, scope. Port and address in network order, the family in the host's.
    let mut name = [0_u8; 28];
    let (family, length) = match address {
        IpAddr::V4(address) => {
            name[4..8].copy_from_slice(&address.octets());
            (libc::AF_INET, 16)
        }
        IpAddr::V6(address) => {
            name[8..24].copy_from_slice(&address.octets());
            (libc::AF_INET6, 28)
        }
    };
    name[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    name[2..4].copy_from_slice(&port.to_be_bytes());
    let at = name.as_ptr() as usize;
    // SAFETY: the kernel reads `length` bytes of `name`, which has that many.
    unsafe { call(libc::SYS_bind, [number(socket.number()), at, length, 0, 0, 0]) }.map(drop)
}

/// listen(2), with as long a queue as the host allows (net.core.somaxconn cuts it).
pub fn listen(socket: &Fd) -> Result<()> {
    scalar(libc::SYS_listen, [number(socket.number()), 4096, 0, 0, 0]).map(drop)
}

/// sendmsg(2) with SCM_RIGHTS: `text` and one descriptor; never waits, raises no SIGPIPE.
pub fn send_descriptor(over: i32, fd: &Fd, text: &[u8]) -> Result<()> {
    // One struct cmsghdr (length, level, type: 16 bytes), one int, padding to a multiple of 8.
    #[repr(C, align(8))]
    struct Control {
        length: u64,
        level: i32,
        kind: i32,
        fd: i32,
        padding: i32,
    }
    let control = Control {
        length: 20,
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        fd: fd.number(),
        padding: 0,
    };
    let piece = [text.as_ptr() as usize, text.len()];
    // struct msghdr as seven words: name, its length, iovec, their number, control, its length, flags.
    let control_at = &raw const control as usize;
    let message = [0, 0, piece.as_ptr() as usize, 1, control_at, mem::size_of::<Control>(), 0];
    let flags = number(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    // SAFETY: the kernel reads one struct msghdr, the one iovec and the control data that it points to,
    // and the bytes of `text`; all of them outlive the call, and it writes to none.
    unsafe { call(libc::SYS_sendmsg, [number(over), message.as_ptr() as usize, flags, 0, 0, 0]) }
        .map(drop)
}
