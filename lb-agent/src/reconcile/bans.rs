//! Bans: commands that refuse clients, and let them in again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::abi::{ServiceId, ServiceKey, protocol};
use lb_common::addr;

use super::Reconciler;
use super::commands::{changed, count, refuse};
use crate::control::message::{BanRequest, BanStatus, Bans, Refusal, RefusalKind, Reply};
use crate::dataplane::bpf::of_interfaces;
use crate::errors::chain;
use crate::state::access;
use crate::state::overlay::{self, Ban};
use lb_config::http::Cidr;
use lb_http::Offender;

impl Reconciler {
    /// Refuses the clients of a prefix from now on, and ends their open connections.
    pub(super) fn ban(&mut self, request: BanRequest) -> Result<Reply, Refusal> {
        let BanRequest {
            prefix,
            service,
            length,
            reason,
            force,
        } = request;
        if let Some(name) = &service {
            self.check_service(name)?;
        }
        if !force {
            Self::check_ban(&prefix)?;
        }
        let now_ms = overlay::steady_ms();
        let length_ms = length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        let mut overlay = self.overlay.clone();
        overlay.forget_ended(now_ms);
        overlay.ban(Ban {
            prefix,
            service: service.clone(),
            until_unix_ms: length_ms.map(|length_ms| now_ms.saturating_add(length_ms)),
            reason,
        });
        self.change_overlay(overlay)?;
        let of = service
            .as_deref()
            .map_or(String::new(), |name| format!(" from {name}"));
        let time = match length {
            Some(length) => format!("for {}", humantime::format_duration(in_seconds(length))),
            None => "until unban".to_owned(),
        };
        let closed = match self.close_clients([(&prefix, service.as_deref())]) {
            Ok(closed) => format!("{} closed", count(closed, "open connection")),
            Err(error) => format!("open connections go on: {}", chain(&error)),
        };
        changed(format!("banned {prefix}{of} {time}; {closed}"))
    }

    /// Bans the clients that went over a limit with `ban`, by one change of the state. The caller does so about every
    /// [`super::LOOK_AGAIN`].
    pub fn ban_offenders(&mut self) {
        let now_ms = overlay::steady_ms();
        let bans: Vec<Ban> = self
            .l7
            .take_offenders()
            .into_iter()
            .filter_map(|it| offence(it, now_ms))
            .collect();
        let new = |ban: &Ban| Self::check_ban(&ban.prefix).is_ok();
        let bans: Vec<Ban> = bans.into_iter().filter(new).collect();
        if bans.is_empty() {
            return;
        }
        let mut overlay = self.overlay.clone();
        overlay.forget_ended(now_ms);
        bans.iter()
            .for_each(|ban| overlay.ban_for_longer(ban.clone()));
        if let Err(error) = self.change_overlay(overlay) {
            tracing::warn!(error = %error.error, "clients over a limit are not banned");
            return;
        }
        for ban in &bans {
            let service = ban.service.as_deref().unwrap_or_default();
            let reason = ban.reason.as_deref().unwrap_or_default();
            tracing::info!(prefix = %ban.prefix, service, reason, "banned");
        }
        let banned = bans.iter().map(|ban| (&ban.prefix, ban.service.as_deref()));
        if let Err(error) = self.close_clients(banned) {
            tracing::warn!(error = %chain(&error), "open connections of banned clients go on");
        }
    }

    /// Closes the open connections of some prefixes, each with one service or all, in one walk over all connections.
    fn close_clients<'b>(
        &self,
        banned: impl IntoIterator<Item = (&'b Cidr, Option<&'b str>)>,
    ) -> Result<usize, crate::dataplane::Error> {
        let banned = banned.into_iter().map(|(prefix, service)| {
            let only = service.map(|name| self.observed.service(name));
            (access::net(prefix), only)
        });
        let banned: Vec<_> = banned.collect();
        let came_for = |local: SocketAddr, only: Option<Option<ServiceId>>| {
            let key = |kind| ServiceKey::new(addr::from_ip(local.ip()), local.port(), kind);
            let found =
                [protocol::TCP, protocol::UDP].map(|kind| self.observed.service_at(&key(kind)));
            let mut found = found.into_iter().flatten();
            found.any(|id| only.is_none_or(|only| only == Some(id)))
        };
        self.plane.close_clients(&|local, client| {
            let client = addr::from_ip(client.ip());
            let mut banned = banned.iter();
            banned.any(|(net, only)| net.contains(&client) && came_for(local, *only))
        })
    }

    /// Refuses a service that no client comes to by an address.
    fn check_service(&self, name: &str) -> Result<(), Refusal> {
        if !self.named(Some(name))?.listen.is_empty() {
            return Ok(());
        }
        let hint = "name the service that it is a route of, which refuses the client for all of its routes";
        let error = format!("{name} listens on no address of its own");
        Err(refuse(RefusalKind::BadRequest, error, Some(hint)))
    }

    /// Refuses bans that are most likely a mistake.
    fn check_ban(prefix: &Cidr) -> Result<(), Refusal> {
        let net = access::net(prefix);
        let mistake = |what: String| {
            let hint = "ban a narrower prefix, or give --force if that is meant";
            refuse(RefusalKind::BadRequest, what, Some(hint))
        };
        let shortest = if addr::is_v4(&net.first) { 96 } else { 0 };
        if net.bits == shortest {
            return Err(mistake(format!("{prefix} is everybody")));
        }
        let loopback = [addr::LOOPBACK_V4, addr::LOOPBACK_V6];
        if addr::is_loopback(&net.first) || loopback.iter().any(|own| net.contains(own)) {
            return Err(mistake(format!("{prefix} is this host itself (loopback)")));
        }
        let inside = |ip: &IpAddr| net.contains(&addr::from_ip(*ip));
        match of_interfaces().unwrap_or_default().into_iter().find(inside) {
            Some(ip) => Err(mistake(format!(
                "{ip} in {prefix} is an address of this host"
            ))),
            None => Ok(()),
        }
    }

    /// Lifts a ban.
    pub(super) fn unban(&mut self, prefix: Cidr, service: Option<&str>) -> Result<Reply, Refusal> {
        let mut overlay = self.overlay.clone();
        overlay.forget_ended(overlay::steady_ms());
        let of = service.map_or(String::new(), |name| format!(" from {name}"));
        if !overlay.unban(prefix, service) {
            return Err(refuse(
                RefusalKind::NotFound,
                format!("{prefix} is not banned{of}"),
                Some(
                    "`lb-agent bans` lists the bans: name the very prefix, and --service if the ban has one",
                ),
            ));
        }
        self.change_overlay(overlay)?;
        changed(format!("unbanned {prefix}{of}"))
    }

    /// The bans in force.
    pub(super) fn bans(&self) -> Bans {
        let now_ms = overlay::steady_ms();
        let lasting = self.overlay.bans.iter().filter(|ban| ban.lasts(now_ms));
        let status = |ban: &Ban| BanStatus {
            prefix: ban.prefix,
            service: ban.service.clone(),
            left_seconds: ban
                .until_unix_ms
                .map(|until_ms| until_ms.saturating_sub(now_ms).div_ceil(1000)),
            reason: ban.reason.clone(),
        };
        Bans {
            bans: lasting.map(status).collect(),
        }
    }
}

/// The ban of a client that went over a limit.
fn offence(offender: Offender, now_ms: u64) -> Option<Ban> {
    let (ip, v4) = (addr::to_ip(&offender.prefix), addr::is_v4(&offender.prefix));
    let bits = if v4 {
        offender.bits.checked_sub(96)?
    } else {
        offender.bits
    };
    let length_ms = u64::try_from(offender.length.as_millis()).unwrap_or(u64::MAX);
    Some(Ban {
        prefix: format!("{ip}/{bits}").parse().ok()?,
        service: Some(offender.service),
        until_unix_ms: Some(now_ms.saturating_add(length_ms)),
        reason: Some(format!("limit {}", offender.limit)),
    })
}

fn in_seconds(length: Duration) -> Duration {
    match length.as_secs() {
        0 => length,
        seconds => Duration::from_secs(seconds),
    }
}
