"""Errors of S3 stores: which requests may be retried, and the error messages for users.

An error code is either the code of the store (``NoSuchBucket``) or, if no response arrived, the name of the client's
exception class (``ReadTimeoutError``). Messages contain only codes, because the texts of the store and of the client
may contain signed URLs and keys.
"""

from dataclasses import dataclass

from fedws.core.untrusted_text import to_printable

_CONNECTION_PROBLEMS = {
    "EndpointConnectionError": "cannot be reached",
    "ConnectTimeoutError": "cannot be reached",
    "ProxyConnectionError": "cannot be reached through the proxy of the environment",
    "ReadTimeoutError": "does not respond",
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
_BUCKET_OPERATIONS = ("ListObjectsV2", "ListMultipartUploads")


@dataclass(frozen=True)
class S3Address:
    """The location of an S3 store, for error messages."""

    bucket: str
    prefix: str = ""
    """Prefix of all keys, without slashes at its ends. Empty if the URL of the store has no prefix."""
    host: str = ""
    """Host of the endpoint, with the port if the endpoint URL has one. Empty until a client exists."""
    endpoint_path: str = ""
    """Path of the endpoint URL, without slashes at its ends. Usually empty."""

    def describe_missing_bucket(self) -> str:
        """Return the message for a bucket that does not exist."""
        if self.endpoint_path:
            path = to_printable(self.endpoint_path, 60)
            return (
                f"bucket {self.bucket!r} not found at {self.host}/{path}; "
                f"if '/{path}' names the bucket, remove it from AWS_ENDPOINT_URL"
            )
        path = f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket
        return (
            f"bucket {self.bucket!r} not found at {self.host}; create it, or put the bucket first: s3://BUCKET/{path}"
        )


@dataclass(frozen=True)
class S3ErrorInfo:
    """The error of one failed request."""

    code: str
    http_status: int = 0
    """HTTP status, or 0 if no response arrived. The code is the status if the response has no error code."""
    operation: str = ""
    """Name of the failed operation, as in a bucket policy: ``PutObject``."""
    clock_skew_seconds: float | None = None
    """Seconds by which the clock of this machine is ahead of the store's, or None if not known."""

    @property
    def is_retryable(self) -> bool:
        """Return True if a retry of the request may succeed."""
        if not self.http_status:
            return self.code not in (*_NO_CREDENTIALS_CODES, *_NOT_S3_CODES, "CertificateError", "ParamValidationError")
        return (
            (self.http_status >= 500 and self.http_status != 501)
            or self.http_status == 429
            or self.code in _RETRYABLE_CODES
        )

    def describe(self, address: S3Address) -> str:
        """Return the error message for the store at ``address``, without the URL of the store."""
        code, host = to_printable(self.code, 60), address.host
        if self.code in _NO_CREDENTIALS_CODES:
            return f"no valid credentials ({code}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        if self.code == "NoSuchBucket":
            return address.describe_missing_bucket()
        if self.code == "NoSuchKey" and self.operation in _BUCKET_OPERATIONS:
            # These requests name a bucket and no key. So the endpoint URL must name another bucket.
            if address.endpoint_path:
                return address.describe_missing_bucket()
            return f"{host} already names a bucket; remove the bucket from AWS_ENDPOINT_URL"
        if self.code == "RequestTimeTooSkewed":
            skew = "differs from the store's"
            if self.clock_skew_seconds is not None:
                direction = "ahead of" if self.clock_skew_seconds > 0 else "behind"
                skew = f"is {abs(self.clock_skew_seconds) / 60:.0f} minutes {direction} the store's"
            return f"{host} rejects the request: the clock of this machine {skew}; set the clock"
        if self.code in _WRONG_REGION_CODES or self.http_status in (301, 307):
            return f"the bucket is in another region ({code}); set AWS_DEFAULT_REGION"
        if self.http_status in (401, 403) or self.code in _EXPIRED_CREDENTIALS_CODES:
            return f"{host} rejects {self.operation} with these credentials ({code})"
        if self.code == "CertificateError":
            return f"the certificate of {host} is not trusted; set AWS_CA_BUNDLE to the file of its CA"
        if self.code in _NOT_S3_CODES:
            return f"the server at {host} is not an S3 store"
        if self.code == str(self.http_status):
            return f"{host} failed at {self.operation} with HTTP status {code} and no S3 error code"
        if not host:
            return f"cannot set up boto3 from this environment ({code}); check the AWS_ variables and ~/.aws"
        if self.http_status:
            return f"{host} failed at {self.operation} ({self.http_status} {code})"
        return f"{host} {_CONNECTION_PROBLEMS.get(self.code, 'closed the connection')}"
