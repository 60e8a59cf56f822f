"""What an S3 store's errors mean: whether trying again helps, and the line for a person.

A code is the store's own (``NoSuchBucket``), or the class of the client's error where no answer came
(``ReadTimeoutError``). Only codes get into lines: messages of store and client may hold signed URLs and keys.
"""

from dataclasses import dataclass

from fedws.core.errors import printable

_UNREACHED = {
    "EndpointConnectionError": "cannot be reached",
    "ConnectTimeoutError": "cannot be reached",
    "ProxyConnectionError": "cannot be reached through the proxy of the environment",
    "ReadTimeoutError": "does not answer",
}
_NO_STORE = ("ResponseParserError",)
_PASSING = ("RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError", "TooManyRequests", "OperationAborted")
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
)
_OUT_OF_DATE = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


@dataclass(frozen=True)
class Fault:
    """One failed request."""

    code: str
    status: int = 0
    """Of HTTP; 0: there was no answer. It is the code too where the answer names none."""
    operation: str = ""
    """What was refused, as a policy names it: ``PutObject``."""
    skew: float | None = None
    """Seconds that this clock is ahead of the store's; None where that is not known."""

    @property
    def passing(self) -> bool:
        """Whether it may go by itself."""
        if not self.status:
            return self.code not in (*_NO_CREDENTIALS, *_NO_STORE, "CertificateError", "ParamValidationError")
        return (self.status >= 500 and self.status != 501) or self.status == 429 or self.code in _PASSING

    def line(self, host: str) -> str:
        """What happened at ``host``, without the store's name; empty: no host is known yet."""
        code = printable(self.code, 60)
        if self.code in _NO_CREDENTIALS:
            return f"no credentials ({code}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if self.code == "NoSuchBucket":
            return f"there is no such bucket at {host}"
        if self.code == "RequestTimeTooSkewed":
            off = "not that of the store"
            if self.skew is not None:
                off = f"{abs(self.skew) / 60:.0f} minutes {'ahead of' if self.skew > 0 else 'behind'} the store's"
            return f"this machine's clock is {off}, which therefore refuses; set the clock"
        if self.code in _REGION or self.status in (301, 307):
            return f"the bucket is in another region ({code}); set AWS_DEFAULT_REGION"
        if self.status in (401, 403) or self.code in _OUT_OF_DATE:
            return f"{host} refuses {self.operation} with these credentials ({code})"
        if self.code == "CertificateError":
            return f"{host} has no certificate that is trusted here; AWS_CA_BUNDLE names whom to trust"
        if self.code in _NO_STORE:
            return f"what answers at {host} is no S3 store"
        if self.code == str(self.status):
            return f"{host} fails at {self.operation}, not as an S3 store would ({code})"
        if not host:
            return f"boto3 cannot be set up from this environment ({code})"
        if self.status:
            return f"{host} fails at {self.operation} ({self.status} {code})"
        return f"{host} {_UNREACHED.get(self.code, 'ended the connection')}"
