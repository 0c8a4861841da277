"""Every field of Tyk's classic API definition and policy, and what becomes of it (spec/api-definition.md).

One static table each: `mapped` (the translator writes it in our format), `ignored` (harmless, and listed for the
caller) or `refused` (it changes behaviour that we do not have). A row covers what is below it unless a longer row says
otherwise; `*` stands for one key. A field that no row covers is refused, so that nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["API_FIELDS", "POLICY_FIELDS", "Row", "is_zero"]

Kind = Literal["text", "flag", "number", "texts", "objects", "any"]


@dataclass(frozen=True, slots=True)
class Row:
    """What becomes of one field. `note` says why, `kind` what a mapped value must be.

    `switch` is the field that gives this one its meaning: where that is zero (or, with a leading `!`, is not), the
    field has no effect and is ignored whatever the row says.
    """

    verdict: Literal["mapped", "ignored", "refused"]
    note: str = ""
    kind: Kind = "any"
    switch: str = ""


def is_zero(value: Any) -> bool:
    """Go's zero values, and objects of nothing else: they mean absent."""
    if isinstance(value, Mapping):
        return all(is_zero(inner) for inner in value.values())
    return value is None or value in (False, 0, "") or value == []


def _rows(verdict: Literal["mapped", "ignored", "refused"], names: str, **further: Any) -> dict[str, Row]:
    return {name: Row(verdict, **further) for name in names.split()}


_ENTRY: Final = "version_data.versions.*"
_RULES: Final = (
    "ignored black_list white_list mock_response transform_headers transform_response_headers hard_timeouts "
    "size_limits rate_limit"
)
_FURTHER_RULES: Final = (
    "cache advance_cache_config transform transform_response transform_jq transform_jq_response circuit_breakers "
    "url_rewrites virtual method_transforms validate_json internal go_plugin persist_graphql validate_request"
)
_EDITS: Final = (
    ("global_headers", "any"), ("global_headers_remove", "texts"), ("global_response_headers", "any"),
    ("global_response_headers_remove", "texts"),
)  # fmt: skip

API_FIELDS: Final[Mapping[str, Row]] = {
    # identity and serving
    **_rows("mapped", "api_id name org_id expiration", kind="text"),
    "active": Row("mapped", kind="flag"),
    "domain": Row("mapped", kind="text", switch="!domain_disabled"),
    **_rows("ignored", "id slug", note="the Dashboard's own name of the API"),
    **_rows("ignored", "domain_disabled tags_disabled config_data_disabled error_overrides_disabled",
            note="what it switches off is not there"),
    "tags": Row("ignored", "there are no shards", switch="!tags_disabled"),
    **_rows("ignored", "config_data enable_context_vars", note="only plugins and templates of Tyk read it"),
    **_rows("ignored", "do_not_track enable_detailed_recording tag_headers expire_analytics_after detailed_tracing",
            note="there are no analytics"),
    "internal": Row("refused", "an API that only others reach"),
    "certificates": Row("refused", "certificates of one API"),
    "listen_port": Row("refused", "a port of its own"),
    "protocol": Row("refused", "only http is served here"),
    "enable_proxy_protocol": Row("refused", "the PROXY protocol"),
    "enable_batch_request_support": Row("refused", "batches of requests"),
    "notifications": Row("refused", "nobody is called about new OAuth tokens; oauth/introspect tells of a token",
                         switch="use_oauth2"),
    "event_handlers": Row("refused", "nobody would be told of the events"),
    "error_overrides": Row("refused", "rewriting of errors", switch="!error_overrides_disabled"),
    "is_oas": Row("refused", "an OpenAPI definition"),
    "graphql": Row("refused", "GraphQL", switch="graphql.enabled"),
    # authentication
    **_rows("mapped", "use_keyless", kind="flag"),
    **_rows("mapped", "use_standard_auth use_basic_auth strip_auth_data", kind="flag", switch="!use_keyless"),
    "base_identity_provided_by": Row("mapped", kind="text", switch="!use_keyless"),
    **_rows("mapped", "enable_jwt enable_signature_checking use_openid", kind="flag", switch="!use_keyless"),
    "use_oauth2": Row("mapped", kind="flag", switch="!use_keyless"),
    # Tyk asks for the certificate before the other methods, and of an open API too.
    "use_mutual_tls_auth": Row("mapped", kind="flag"),
    "client_certificates": Row("mapped", kind="texts", switch="use_mutual_tls_auth"),
    **_rows("refused", "custom_plugin_auth_enabled enable_coprocess_auth use_go_plugin_auth",
            note="this way of authentication", switch="!use_keyless"),
    "external_oauth": Row("refused", "this way of authentication", switch="external_oauth.enabled"),
    **_rows("mapped", "jwt_signing_method jwt_source jwt_identity_base_field jwt_identit_base_field "
            "jwt_policy_field_name jwt_client_base_field jwt_scope_claim_name scopes.jwt.scope_claim_name",
            kind="text", switch="enable_jwt"),
    **_rows("mapped", "jwt_issued_at_validation_skew jwt_expires_at_validation_skew jwt_not_before_validation_skew",
            kind="number", switch="enable_jwt"),
    "jwt_skip_kid": Row("mapped", kind="flag", switch="enable_jwt"),
    "jwt_default_policies": Row("mapped", kind="texts", switch="enable_jwt"),
    **_rows("mapped", "jwt_jwks_uris jwt_scope_to_policy_mapping scopes.jwt.scope_to_policy", switch="enable_jwt"),
    "scopes.oidc": Row("refused", "OpenID Connect", switch="use_openid"),
    "idp_client_id_mapping_disabled": Row("ignored", "claims of clients are read where they are named"),
    "hmac_allowed_clock_skew": Row("mapped", kind="number", switch="enable_signature_checking"),
    "hmac_allowed_algorithms": Row("mapped", kind="texts", switch="enable_signature_checking"),
    **_rows("mapped", "oauth_meta.allowed_access_types oauth_meta.allowed_authorize_types", kind="texts",
            switch="use_oauth2"),
    "oauth_meta.auth_login_redirect": Row("mapped", kind="text", switch="use_oauth2"),
    "openid_options.providers": Row("mapped", switch="use_openid"),
    "openid_options.segregate_by_client": Row("mapped", kind="flag", switch="use_openid"),
    "request_signing": Row("refused", "signing of requests", switch="request_signing.is_enabled"),
    **{
        f"{place}.{name}": Row("mapped", kind=kind, switch=switch)  # type: ignore[arg-type]
        for place, switch in (("auth", "!use_keyless"), ("auth_configs.authToken", "!use_keyless"),
                              ("auth_configs.basic", "use_basic_auth"), ("auth_configs.jwt", "enable_jwt"),
                              ("auth_configs.hmac", "enable_signature_checking"),
                              ("auth_configs.oidc", "use_openid"), ("auth_configs.oauth", "use_oauth2"))
        for name, kind in (("auth_header_name", "text"), ("disable_header", "flag"), ("use_param", "flag"),
                           ("param_name", "text"), ("use_cookie", "flag"), ("cookie_name", "text"))
    },
    **{
        f"{place}.{name}": Row("refused", note, switch="!use_keyless")
        for place in ("auth", "auth_configs.authToken", "auth_configs.basic", "auth_configs.jwt", "auth_configs.hmac",
                      "auth_configs.oidc", "auth_configs.oauth")
        for name, note in (("use_certificate", "a certificate in place of a key; write `[mtls: {session: true}, key]`"),
                           ("validate_signature", "signatures of keys"))
    },
    **{
        f"{place}.signature": Row("refused", "signatures of keys", switch=f"{place}.validate_signature")
        for place in ("auth", "auth_configs.authToken", "auth_configs.basic", "auth_configs.jwt", "auth_configs.hmac",
                      "auth_configs.oidc", "auth_configs.oauth")
    },
    "auth_configs.coprocess": Row("refused", "plugins of Tyk", switch="enable_coprocess_auth"),
    "auth_configs.externalOAuth": Row("refused", "external OAuth", switch="external_oauth.enabled"),
    "basic_auth.disable_caching": Row("mapped", kind="flag", switch="use_basic_auth"),
    "basic_auth.cache_ttl": Row("mapped", kind="number", switch="use_basic_auth"),
    "basic_auth.extract_from_body": Row("mapped", kind="flag", switch="use_basic_auth"),
    **_rows("mapped", "basic_auth.body_user_regexp basic_auth.body_password_regexp", kind="text",
            switch="basic_auth.extract_from_body"),
    **_rows("refused", "auth_provider.storage_engine session_provider.storage_engine",
            note="sessions in another store"),
    **_rows("ignored", "auth_provider.name session_provider.name auth_provider.meta session_provider.meta",
            note="sessions are kept in the gateway's own store"),
    # versions
    "definition.location": Row("mapped", kind="text", switch="!version_data.not_versioned"),
    "definition.key": Row("mapped", kind="text", switch="!version_data.not_versioned"),
    **_rows("mapped", "definition.strip_path definition.strip_versioning_data", kind="flag",
            switch="!version_data.not_versioned"),
    "definition.url_versioning_pattern": Row("refused", "a pattern of versions", switch="!version_data.not_versioned"),
    "definition.enabled": Row("refused", "versions that are APIs of their own"),
    **_rows("refused", "definition.versions definition.fallback_to_default definition.name definition.default",
            note="versions that are APIs of their own", switch="definition.enabled"),
    "version_data.not_versioned": Row("mapped", kind="flag"),
    "version_data.default_version": Row("mapped", kind="text", switch="!version_data.not_versioned"),
    **_rows("mapped", f"{_ENTRY}.expires {_ENTRY}.override_target", kind="text"),
    f"{_ENTRY}.name": Row("ignored", "the key above it is the name"),
    **{f"{_ENTRY}.{name}": Row("mapped", kind="flag") for name in ("use_extended_paths", "ignore_endpoint_case")},
    **{f"{_ENTRY}.paths.{name}": Row("mapped", kind="texts", switch=f"!{_ENTRY}.use_extended_paths")
       for name in ("ignored", "black_list", "white_list")},
    **{f"{_ENTRY}.extended_paths.{name}": Row("mapped", kind="objects", switch=f"{_ENTRY}.use_extended_paths")
       for name in _RULES.split()},
    **{f"{_ENTRY}.extended_paths.{name}": Row("refused", "rules of single paths", switch=f"{_ENTRY}.use_extended_paths")
       for name in _FURTHER_RULES.split()},
    **{f"{_ENTRY}.extended_paths.{name}": Row("ignored", "there are no analytics")
       for name in ("track_endpoints", "do_not_track_endpoints")},
    **{f"{_ENTRY}.{name}": Row("mapped", kind=kind, switch=f"!{_ENTRY}.{name}_disabled")  # type: ignore[arg-type]
       for name, kind in _EDITS},
    **{f"{_ENTRY}.{name}_disabled": Row("ignored", "it is left out")
       for name in (*dict(_EDITS), "global_size_limit")},
    f"{_ENTRY}.global_size_limit": Row("mapped", kind="number", switch=f"!{_ENTRY}.global_size_limit_disabled"),
    f"{_ENTRY}.global_enforce_timeout": Row("refused", "a hard timeout"),
    # middleware, cache
    **_rows("refused", "custom_middleware.pre custom_middleware.auth_check custom_middleware.post_key_auth "
            "custom_middleware.post custom_middleware.response custom_middleware.traffic_logs",
            note="plugins of Tyk"),
    **_rows("ignored", "custom_middleware.driver custom_middleware.id_extractor",
            note="without plugins of Tyk it does nothing"),
    "custom_middleware_bundle": Row("refused", "plugins of Tyk", switch="!custom_middleware_bundle_disabled"),
    "custom_middleware_bundle_disabled": Row("ignored", "what it switches off is not there"),
    "response_processors": Row("mapped", kind="objects"),
    "cache_options": Row("refused", "caching", switch="cache_options.enable_cache"),
    # proxy
    **_rows("mapped", "proxy.listen_path", kind="text"),
    "proxy.target_url": Row("mapped", kind="text"),
    **_rows("mapped", "proxy.strip_listen_path proxy.preserve_host_header", kind="flag"),
    "proxy.disable_strip_slash": Row("ignored", "a slash at the end always stays"),
    "proxy.enable_load_balancing": Row("mapped", kind="flag"),
    "proxy.target_list": Row("mapped", kind="texts", switch="proxy.enable_load_balancing"),
    "proxy.check_host_against_uptime_tests": Row("refused", "uptime tests", switch="uptime_tests.check_list"),
    "proxy.service_discovery": Row("refused", "service discovery",
                                   switch="proxy.service_discovery.use_discovery_service"),
    "proxy.transport.ssl_insecure_skip_verify": Row("mapped", kind="flag"),
    **_rows("mapped", "proxy.transport.ssl_min_version proxy.transport.ssl_max_version", kind="number"),
    "proxy.transport.ssl_force_common_name_check": Row("ignored", "a certificate's name is always checked"),
    "proxy.transport.ssl_ciphers": Row("refused", "a list of ciphers"),
    "proxy.transport.proxy_url": Row("refused", "a proxy before the upstream"),
    # limits, lists, uptime, TLS
    **_rows("mapped", "global_rate_limit.rate global_rate_limit.per", kind="number",
            switch="!global_rate_limit.disabled"),
    "global_rate_limit.disabled": Row("ignored", "the limit is left out"),
    **_rows("mapped", "disable_rate_limit disable_quota", kind="flag"),
    "dont_set_quota_on_create": Row("ignored", "a write resets no counter anyway"),
    "session_lifetime": Row("refused", "keys would outlive what was asked"),
    "session_lifetime_respects_key_expiration": Row("refused", "the life of keys", switch="session_lifetime"),
    **_rows("mapped", "allowed_ips blacklisted_ips", kind="texts", switch="!ip_access_control_disabled"),
    "ip_access_control_disabled": Row("ignored", "the lists are left out"),
    "enable_ip_whitelisting": Row("ignored", "the list alone decides"),
    "enable_ip_blacklisting": Row("ignored", "the list alone decides"),
    "CORS.enable": Row("mapped", kind="flag"),
    **_rows("mapped", "CORS.allowed_origins CORS.allowed_methods CORS.allowed_headers CORS.exposed_headers",
            kind="texts", switch="CORS.enable"),
    **_rows("mapped", "CORS.allow_credentials CORS.options_passthrough", kind="flag", switch="CORS.enable"),
    "CORS.max_age": Row("mapped", kind="number", switch="CORS.enable"),
    "CORS.debug": Row("ignored", "`why` tells what was refused"),
    "uptime_tests.check_list": Row("refused", "uptime tests", switch="!uptime_tests.disabled"),
    "uptime_tests.config": Row("ignored", "without a list of checks it does nothing"),
    "uptime_tests.disabled": Row("ignored", "what it switches off is not there"),
    "upstream_certificates": Row("mapped", switch="!upstream_certificates_disabled"),
    "pinned_public_keys": Row("refused", "pinning of upstream keys", switch="!certificate_pinning_disabled"),
    **_rows("ignored", "upstream_certificates_disabled certificate_pinning_disabled",
            note="what it switches off is not there"),
    "upstream_auth": Row("refused", "credentials for upstreams", switch="upstream_auth.enabled"),
    **_rows("mapped", "x_aiogate.upstream x_aiogate.auth x_aiogate.versions x_aiogate.plugins x_aiogate.labels"),
}  # fmt: skip
"""Every field of a definition."""

_RIGHT: Final = "access_rights.*"
_LIMITS: Final = "rate per quota_max quota_renewal_rate throttle_interval throttle_retry_limit"

POLICY_FIELDS: Final[Mapping[str, Row]] = {
    **_rows("mapped", "id _id name org_id", kind="text"),
    **_rows("mapped", _LIMITS + " key_expires_in", kind="number"),
    **_rows("refused", "max_query_depth complexity smoothing", note="limits that are not counted here"),
    "is_inactive": Row("mapped", kind="flag"),
    "tags": Row("mapped", kind="texts"),
    "meta_data": Row("mapped"),
    "active": Row("ignored", "it concerns the Dashboard's lists"),
    **_rows("ignored", "last_updated date_created", note="files have their own time"),
    **_rows("refused", "hmac_enabled enable_http_signature_validation", note="signatures"),
    **_rows("refused", "post_expiry_action post_expiry_grace_period", note="the life of keys by policy"),
    **_rows("mapped", "partitions.quota partitions.rate_limit partitions.acl partitions.per_api", kind="flag"),
    "partitions.complexity": Row("refused", "GraphQL"),
    **_rows("refused", "graphql_access_rights", note="GraphQL"),
    **_rows("ignored", f"{_RIGHT}.api_id {_RIGHT}.apiid", note="the key above it is the id"),
    **_rows("ignored", f"{_RIGHT}.api_name {_RIGHT}.apiname", note="the API has its name"),
    **_rows("ignored", f"{_RIGHT}.allowance_scope", note="Tyk fills it in while it runs"),
    f"{_RIGHT}.versions": Row("mapped", kind="texts"),
    f"{_RIGHT}.allowed_urls": Row("mapped"),
    **{f"{_RIGHT}.limit.{name}": Row("mapped", kind="number") for name in _LIMITS.split()},
    **{f"{_RIGHT}.limit.{name}": Row("ignored", "Tyk fills it in while it runs")
       for name in ("quota_renews", "quota_remaining", "set_by_policy")},
    **{f"{_RIGHT}.limit.{name}": Row("refused", "limits that are not counted here")
       for name in ("max_query_depth", "smoothing")},
    **{f"{_RIGHT}.{name}": Row("refused", "rights inside an API")
       for name in ("endpoints", "restricted_types", "allowed_types", "field_access_rights", "disable_introspection",
                    "json_rpc_methods", "json_rpc_methods_access_rights", "mcp_primitives", "mcp_access_rights")},
}  # fmt: skip
"""Every field of a policy."""

UNLIMITED: Final[Sequence[str]] = ("rate", "quota_max", "throttle_interval", "throttle_retry_limit",
                                   "max_query_depth", "key_expires_in", "quota_renewal_rate", "per",
                                   "allowance")  # fmt: skip
"""Numbers of a policy that mean "no limit" when negative, which a policy says by saying nothing."""
