"""What an S3 store's errors mean: whether trying again helps, and the line for a person.

A code is the store's own (``NoSuchBucket``), or the class of the client's error where no answer came
(``ReadTimeoutError``). Only codes get into lines: messages of store and client may hold signed URLs and keys.
"""

from dataclasses import dataclass

from fedws.core.untrusted_text import to_printable

_CONNECTION_PROBLEMS = {
    "EndpointConnectionError": "cannot be reached",
    "ConnectTimeoutError": "cannot be reached",
    "ProxyConnectionError": "cannot be reached through the proxy of the environment",
    "ReadTimeoutError": "does not answer",
}
_NOT_S3_CODES = ("ResponseParserError",)
_RETRYABLE_CODES = (
    "RequestTimeout",
    "SlowDown",
    "ServiceUnavailable",
    "InternalError",
    "TooManyRequests",
    "OperationAborted",
)
_NO_CREDENTIALS_CODES = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
)
_EXPIRED_CREDENTIALS_CODES = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_WRONG_REGION_CODES = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


@dataclass(frozen=True)
class S3ErrorInfo:
    """One failed request."""

    code: str
    http_status: int = 0
    """Of HTTP; 0: there was no answer. It is the code too where the answer names none."""
    operation: str = ""
    """What was refused, as a policy names it: ``PutObject``."""
    clock_skew_seconds: float | None = None
    """Seconds that this clock is ahead of the store's; None where that is not known."""

    @property
    def is_retryable(self) -> bool:
        """Whether it may go by itself."""
        if not self.http_status:
            return self.code not in (*_NO_CREDENTIALS_CODES, *_NOT_S3_CODES, "CertificateError", "ParamValidationError")
        return (
            (self.http_status >= 500 and self.http_status != 501)
            or self.http_status == 429
            or self.code in _RETRYABLE_CODES
        )

    def describe(self, host: str) -> str:
        """What happened at ``host``, without the store's name; empty: no host is known yet."""
        code = to_printable(self.code, 60)
        if self.code in _NO_CREDENTIALS_CODES:
            return f"no credentials ({code}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if self.code == "NoSuchBucket":
            return f"there is no such bucket at {host}"
        if self.code == "RequestTimeTooSkewed":
            off = "not that of the store"
            if self.clock_skew_seconds is not None:
                direction = "ahead of" if self.clock_skew_seconds > 0 else "behind"
                off = f"{abs(self.clock_skew_seconds) / 60:.0f} minutes {direction} the store's"
            return f"this machine's clock is {off}, which therefore refuses; set the clock"
        if self.code in _WRONG_REGION_CODES or self.http_status in (301, 307):
            return f"the bucket is in another region ({code}); set AWS_DEFAULT_REGION"
        if self.http_status in (401, 403) or self.code in _EXPIRED_CREDENTIALS_CODES:
            return f"{host} refuses {self.operation} with these credentials ({code})"
        if self.code == "CertificateError":
            return f"{host} has no certificate that is trusted here; AWS_CA_BUNDLE names whom to trust"
        if self.code in _NOT_S3_CODES:
            return f"what answers at {host} is no S3 store"
        if self.code == str(self.http_status):
            return f"{host} fails at {self.operation}, not as an S3 store would ({code})"
        if not host:
            return f"boto3 cannot be set up from this environment ({code})"
        if self.http_status:
            return f"{host} fails at {self.operation} ({self.http_status} {code})"
        return f"{host} {_CONNECTION_PROBLEMS.get(self.code, 'ended the connection')}"
