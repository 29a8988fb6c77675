//! Directives that need no key, and reasons for those without a counterpart.

use super::Import;
use super::tree::Directive;

/// Why nothing is needed for a directive.
const NEEDLESS: &[(&str, &[&str])] = &[
    (
        "lb-agent manages its own processes",
        &[
            "user",
            "pid",
            "daemon",
            "master_process",
            "worker_processes",
            "worker_rlimit_nofile",
            "worker_connections",
            "multi_accept",
            "use",
            "accept_mutex",
            "load_module",
            "error_log",
            "worker_cpu_affinity",
            "worker_shutdown_timeout",
            "pcre_jit",
            "env",
            "lock_file",
            "thread_pool",
        ],
    ),
    (
        "nothing has to be tuned for it",
        &[
            "sendfile",
            "sendfile_max_chunk",
            "tcp_nopush",
            "tcp_nodelay",
            "aio",
            "directio",
            "output_buffers",
            "types_hash_max_size",
            "types_hash_bucket_size",
            "server_names_hash_bucket_size",
            "server_names_hash_max_size",
            "variables_hash_max_size",
            "variables_hash_bucket_size",
            "map_hash_bucket_size",
            "map_hash_max_size",
            "proxy_headers_hash_max_size",
            "proxy_headers_hash_bucket_size",
            "reset_timedout_connection",
            "keepalive_requests",
            "keepalive_disable",
            "client_body_buffer_size",
            "client_header_buffer_size",
            "client_body_temp_path",
            "client_body_in_file_only",
            "open_file_cache",
            "open_file_cache_valid",
            "open_file_cache_min_uses",
            "open_file_cache_errors",
            "postpone_output",
            "connection_pool_size",
            "request_pool_size",
            "http2_max_concurrent_streams",
            "http2_recv_buffer_size",
            "http2_chunk_size",
            "http2_max_field_size",
            "http2_max_header_size",
            "lingering_close",
            "lingering_time",
            "lingering_timeout",
            "log_not_found",
            "open_log_file_cache",
            "zone",
            "keepalive_time",
            "preread_buffer_size",
        ],
    ),
    (
        "bodies are passed on as they come, in both directions",
        &[
            "proxy_buffering",
            "proxy_request_buffering",
            "proxy_buffers",
            "proxy_buffer_size",
            "proxy_busy_buffers_size",
            "proxy_max_temp_file_size",
            "proxy_temp_path",
            "proxy_temp_file_write_size",
            "proxy_send_timeout",
            "proxy_socket_keepalive",
            "proxy_headers_hash",
            "grpc_buffer_size",
            "grpc_send_timeout",
            "proxy_pass_header",
            "keepalive_timeout",
        ],
    ),
    (
        "retries follow the rules of docs/configuration.md",
        &[
            "proxy_next_upstream",
            "proxy_next_upstream_tries",
            "proxy_next_upstream_timeout",
        ],
    ),
    (
        "TLS has the parameters of rustls, which are safe ones",
        &[
            "ssl_ciphers",
            "ssl_prefer_server_ciphers",
            "ssl_session_cache",
            "ssl_session_timeout",
            "ssl_session_tickets",
            "ssl_session_ticket_key",
            "ssl_dhparam",
            "ssl_ecdh_curve",
            "ssl_buffer_size",
            "ssl_conf_command",
            "ssl_early_data",
            "ssl_verify_depth",
        ],
    ),
    (
        "OCSP has ended at the usual authorities",
        &[
            "ssl_stapling",
            "ssl_stapling_verify",
            "ssl_trusted_certificate",
            "ssl_stapling_file",
        ],
    ),
    ("backends are addresses", &["resolver", "resolver_timeout"]),
    (
        "connections to backends are HTTP/1.1, and kept open",
        &["proxy_http_version"],
    ),
    (
        "it is the default",
        &[
            "ip_hash",
            "server_tokens",
            "max_ranges",
            "port_in_redirect",
            "absolute_redirect",
            "server_name_in_redirect",
            "ignore_invalid_headers",
            "chunked_transfer_encoding",
            "msie_padding",
            "gzip_vary",
            "gzip_proxied",
            "gzip_comp_level",
            "gzip_buffers",
            "gzip_http_version",
            "gzip_disable",
            "brotli_comp_level",
            "brotli_window",
            "brotli_buffers",
            "default_type",
            "disable_symlinks",
            "charset_types",
            "http2",
            "recursive_error_pages",
            "log_format",
            "limit_req_log_level",
            "limit_conn_log_level",
            "gunzip",
            "autoindex_exact_size",
            "autoindex_localtime",
        ],
    ),
    (
        "the cache follows RFC 9111, with collapsed requests and stale responses",
        &[
            "proxy_cache_lock",
            "proxy_cache_lock_timeout",
            "proxy_cache_lock_age",
            "proxy_cache_use_stale",
            "proxy_cache_revalidate",
            "proxy_cache_background_update",
            "proxy_cache_min_uses",
            "proxy_cache_methods",
            "proxy_cache_path",
            "proxy_cache_max_range_offset",
        ],
    ),
];

/// Why a directive is lost, where there is more to say than that it has no counterpart.
const LOST: &[(&[&str], &str)] = &[
    (
        &["rewrite"],
        "paths are not rewritten by regular expressions; `prefix_rewrite` of a route replaces their beginning",
    ),
    (
        &["if"],
        "only redirects by host and scheme are understood; requests that it answers or refuses are OPEN now: use a route, \
         or the application",
    ),
    (
        &["map", "geo", "split_clients"],
        "there are no variables of one's own",
    ),
    (&["set"], "there are no variables of one's own"),
    (
        &[
            "fastcgi_pass",
            "fastcgi_param",
            "uwsgi_pass",
            "scgi_pass",
            "fastcgi_index",
            "fastcgi_split_path_info",
            "uwsgi_param",
        ],
        "backends speak HTTP",
    ),
    (
        &["proxy_cache_valid"],
        "lifetimes come from `Cache-Control` of the response",
    ),
    (
        &["proxy_cache_bypass", "proxy_no_cache"],
        "what is stored follows from the response and the request (RFC 9111)",
    ),
    (
        &["proxy_cache_key"],
        "the key is scheme, host and target; see `key` in docs/guides/cache.md",
    ),
    (
        &["stub_status"],
        "metrics are served under `metrics` of `[agent]`, and by \"lb-agent status\"",
    ),
    (
        &["limit_req_status", "limit_conn_status"],
        "the status is 429",
    ),
    (
        &["limit_rate", "limit_rate_after"],
        "there is no limit on bytes",
    ),
    (
        &["mirror", "mirror_request_body"],
        "requests are not mirrored",
    ),
    (
        &[
            "sub_filter",
            "sub_filter_once",
            "sub_filter_types",
            "addition_types",
        ],
        "bodies are not changed",
    ),
    (
        &[
            "ssi",
            "perl",
            "js_content",
            "content_by_lua_block",
            "access_by_lua_block",
        ],
        "there are no programs inside",
    ),
    (
        &[
            "proxy_ssl_verify",
            "proxy_ssl_server_name",
            "proxy_ssl_name",
            "proxy_ssl_certificate",
            "proxy_ssl_protocols",
        ],
        "connections to backends have no TLS",
    ),
    (
        &[
            "proxy_cookie_path",
            "proxy_cookie_domain",
            "proxy_cookie_flags",
        ],
        "cookies of backends are not changed",
    ),
    (
        &["proxy_redirect"],
        "a `Location` of backends is not changed",
    ),
    (
        &["proxy_intercept_errors"],
        "error pages are for errors of lb-agent's own",
    ),
    (
        &["limit_except"],
        "methods are not restricted; refuse them in the application",
    ),
    (&["charset"], "the charset of texts is UTF-8"),
    (
        &["types"],
        "the media type goes by the end of the name, by a table of lb-agent's own",
    ),
    (
        &["merge_slashes", "etag", "if_modified_since"],
        "it cannot be switched off",
    ),
    (
        &["proxy_pass_request_headers", "proxy_pass_request_body"],
        "backends get the whole request",
    ),
    (
        &["error_page"],
        "a page is for a service as a whole, and keeps the status of the error; `auth` needs none for 401",
    ),
    (&["satisfy"], "both addresses and passwords have to fit"),
    (
        &["proxy_ignore_headers"],
        "headers of backends keep their meaning",
    ),
    (
        &["proxy_bind"],
        "the source address of connections to backends is the system's",
    ),
];

/// Reports each directive that no rule has taken.
pub(super) fn sweep(directives: &[Directive], import: &Import<'_>) {
    below(directives, false, import);
}

/// The same for directives of a `location`, or outside of all.
fn below(directives: &[Directive], in_location: bool, import: &Import<'_>) {
    for directive in directives {
        let name = directive.name.as_str();
        let is_container =
            ["http", "events", "stream", "server", "location", "upstream"].contains(&name);
        if name == "upstream" && directive.block.is_some() && !directive.is_taken() {
            import.needless(directive, "nothing sends requests to it");
        } else if is_container && directive.block.is_some() {
            let is_location = name == "location";
            if is_location && !directive.is_taken() {
                import.lost(directive, "no route was made of it");
            }
            below(directive.inside(), in_location || is_location, import);
        } else if !directive.is_taken() {
            of_one(directive, in_location, import);
        }
    }
}

fn of_one(directive: &Directive, in_location: bool, import: &Import<'_>) {
    let name = directive.name.as_str();
    if let Some(why) = needless_value(directive) {
        return import.needless(directive, why);
    }
    if UNUSED.contains(&name) && !in_location {
        return import.needless(directive, "no location takes it over");
    }
    if name == "include" {
        return included(directive, import);
    }
    if let Some((why, _)) = NEEDLESS.iter().find(|(_, names)| names.contains(&name)) {
        return import.needless(directive, why);
    }
    let known = LOST.iter().find(|(names, _)| names.contains(&name));
    import.lost(
        directive,
        known.map_or("no counterpart is known", |(_, why)| *why),
    );
}

/// Whether `include` names a file of media types or usual settings, so that nothing is missing without it.
pub(super) fn is_known_file(directive: &Directive) -> bool {
    let known = ["mime.types", "proxy_params", "options-ssl-nginx.conf"];
    known.contains(&directive.arg(0).rsplit('/').next().unwrap_or_default())
}

/// A file that could not be followed.
fn included(directive: &Directive, import: &Import<'_>) {
    let file = directive.arg(0);
    let name = file.rsplit('/').next().unwrap_or_default();
    match name {
        "mime.types" => import.needless(directive, "types of media are known"),
        "proxy_params" => import.needless(directive, "backends get these headers in any case"),
        "options-ssl-nginx.conf" => {
            import.needless(
                directive,
                "TLS has the parameters of rustls, which are safe ones",
            );
        }
        _ => import.lost(
            directive,
            "the file is not there, so what it says is missing; what it closes is OPEN now",
        ),
    }
}

/// Directives that do nothing outside of a location if each location has its own, or none can use them.
const UNUSED: [&str; 29] = [
    "access_log",
    "add_header",
    "auth_basic_user_file",
    "auth_request_set",
    "client_body_timeout",
    "client_header_timeout",
    "client_max_body_size",
    "error_page",
    "expires",
    "gzip_min_length",
    "gzip_types",
    "index",
    "keepalive",
    "large_client_header_buffers",
    "limit_conn_zone",
    "limit_req_zone",
    "proxy_connect_timeout",
    "proxy_hide_header",
    "proxy_read_timeout",
    "proxy_set_header",
    "real_ip_header",
    "real_ip_recursive",
    "root",
    "send_timeout",
    "set_real_ip_from",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
    "upstream",
];

/// Why nothing is needed for a directive with these arguments.
fn needless_value(directive: &Directive) -> Option<&'static str> {
    let arg = |index| directive.arg(index);
    match directive.name.as_str() {
        "map" if arg(0) == "$http_upgrade" => Some("WebSockets need no setting"),
        "proxy_cache_bypass" | "proxy_no_cache"
            if directive.args.iter().all(|arg| arg == "$http_upgrade") =>
        {
            Some("upgraded connections never enter the cache")
        }
        "proxy_redirect" if matches!(arg(0), "off" | "default") => Some("it is the default"),
        "etag" | "merge_slashes" if arg(0) == "on" => Some("it is the default"),
        "proxy_pass_request_headers" | "proxy_pass_request_body" if arg(0) == "on" => {
            Some("it is the default")
        }
        "charset" if arg(0).eq_ignore_ascii_case("utf-8") => Some("it is the default"),
        "limit_req_status" | "limit_conn_status" if arg(0) == "429" => Some("it is the default"),
        "access_log" if arg(0) == "off" => Some("a log is kept where one is named"),
        "gzip"
        | "brotli"
        | "autoindex"
        | "proxy_intercept_errors"
        | "mirror"
        | "ssi"
        | "auth_basic"
        | "auth_request"
            if arg(0) == "off" =>
        {
            Some("it is the default")
        }
        "allow" if arg(0) == "all" => Some("it is the default"),
        _ => None,
    }
}
