package azure

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"github.com/massif-fs/massif/object/wire"
)

// meanings of the codes of Azure Storage, by the Blob and by the Data Lake protocol.
var meanings = map[string]wire.Meaning{
	"BlobNotFound":       wire.Means(object.ErrNotFound, ""),
	"PathNotFound":       wire.Means(object.ErrNotFound, ""),
	"SourcePathNotFound": wire.Means(object.ErrNotFound, ""),
	// A parent of the destination of a rename.
	"RenameDestinationParentPathNotFound": wire.Means(object.ErrNotFound, "the destination's directory is not there"),
	"ContainerNotFound":                   wire.Means(object.ErrNoBucket, "there is no such container"),
	"FilesystemNotFound":                  wire.Means(object.ErrNoBucket, "there is no such container"),
	"ContainerDisabled":                   wire.Means(object.ErrNoBucket, "the container is disabled"),
	"InvalidResourceName":                 wire.Means(object.ErrInvalid, "the service does not allow the name"),
	"ContainerBeingDeleted":               wire.Means(object.ErrNoBucket, "the container is being deleted"),

	"AuthenticationFailed":            wire.Means(object.ErrAccess, "the account key, the SAS or the token is wrong, or the clock is"),
	"InvalidAuthenticationInfo":       wire.Means(object.ErrAccess, "the token is not valid for this account, or has expired"),
	"NoAuthenticationInformation":     wire.Means(object.ErrAccess, "the container is not open to everybody, and there are no credentials"),
	"PublicAccessNotPermitted":        wire.Means(object.ErrAccess, "the account is not open to everybody, and there are no credentials"),
	"AuthorizationFailure":            wire.Means(object.ErrAccess, "the credentials are wrong or do not allow this, or the account's firewall does not"),
	"AuthorizationPermissionMismatch": wire.Means(object.ErrAccess, "the identity or the SAS does not have the permission for this"),
	"AuthorizationProtocolMismatch":   wire.Means(object.ErrAccess, "the SAS is for another protocol than that of the endpoint"),
	"AuthorizationResourceTypeMismatch": wire.Means(object.ErrAccess,
		"the SAS is for another type of resource"),
	"AuthorizationServiceMismatch":   wire.Means(object.ErrAccess, "the SAS is for another service"),
	"AuthorizationSourceIPMismatch":  wire.Means(object.ErrAccess, "the SAS is for another address than that of this machine"),
	"InsufficientAccountPermissions": wire.Means(object.ErrAccess, "the account does not allow this"),
	"AccountIsDisabled":              wire.Means(object.ErrAccess, "the account is disabled"),
	"KeyBasedAuthenticationNotPermitted": wire.Means(object.ErrAccess,
		"the account does not allow account keys"),
	"BlobArchived":                        wire.Means(object.ErrAccess, "the object is in the archive and has to be rehydrated first"),
	"BlobBeingRehydrated":                 wire.Means(object.ErrAccess, "the object is being rehydrated from the archive"),
	"BlobImmutableDueToPolicy":            wire.Means(object.ErrAccess, "the object is kept unchanged by a policy"),
	"LeaseIdMissing":                      wire.Means(object.ErrAccess, "somebody holds a lease of the object"),
	"LeaseIdMismatchWithBlobOperation":    wire.Means(object.ErrAccess, "somebody holds a lease of the object"),
	"BlobUsesCustomerSpecifiedEncryption": wire.Means(object.ErrAccess, "the object was encrypted with a customer's key, which has to be given"),
	"BlobCustomerSpecifiedEncryptionMismatch": wire.Means(object.ErrAccess,
		"the object was encrypted with another customer's key"),

	"BlobAlreadyExists":     wire.Means(object.ErrExists, ""),
	"PathAlreadyExists":     wire.Means(object.ErrExists, ""),
	"ConditionNotMet":       wire.Means(object.ErrPrecondition, ""),
	"TargetConditionNotMet": wire.Means(object.ErrPrecondition, ""),
	"SourceConditionNotMet": wire.Means(object.ErrPrecondition, "the source was changed meanwhile"),

	"ServerBusy":           wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"TooManyRequests":      wire.Means(object.ErrUnavailable, "the server asks for fewer requests"),
	"OperationTimedOut":    wire.Means(object.ErrUnavailable, "the server took too long"),
	"InternalError":        wire.Means(object.ErrUnavailable, "the server failed"),
	"Md5Mismatch":          wire.Means(object.ErrUnavailable, "the data was damaged on its way to the server"),
	"Crc64Mismatch":        wire.Means(object.ErrUnavailable, "the data was damaged on its way to the server"),
	"PendingCopyOperation": wire.Means(object.ErrUnavailable, "a copy to the object is under way"),
	"AccountBeingCreated":  wire.Means(object.ErrUnavailable, "the account is being created"),
	"PathIsBeingDeleted":   wire.Means(object.ErrUnavailable, "the object is being deleted"),
	"DestinationPathIsBeingDeleted": wire.Means(object.ErrUnavailable,
		"the destination is being deleted"),
	"SourcePathIsBeingDeleted": wire.Means(object.ErrNotFound, "the source is being deleted"),

	"DirectoryIsNotEmpty":     wire.Means(errNotEmpty, ""),
	"DirectoryNotEmpty":       wire.Means(errNotEmpty, ""),
	"ResourceTypeMismatch":    wire.Means(errOtherType, ""),
	"PathConflict":            wire.Means(errOtherType, ""),
	"InvalidRenameSourcePath": wire.Means(object.ErrInvalid, ""),

	"InvalidBlockList":       wire.Means(errBlocks, "blocks are missing: another upload of the object was completed meanwhile"),
	"InvalidBlobOrBlock":     wire.Means(object.ErrInvalid, "the object has blocks of another kind of upload under way"),
	"InvalidRange":           wire.Means(wire.ErrRange, ""),
	"InvalidBlobTier":        wire.Means(object.ErrInvalid, "the account has no such tier"),
	"InvalidMetadata":        wire.Means(object.ErrInvalid, "the metadata is not what the service keeps"),
	"MetadataTooLarge":       wire.Means(object.ErrInvalid, "the metadata is larger than the service takes"),
	"RequestBodyTooLarge":    wire.Means(object.ErrInvalid, "the part is larger than the service takes"),
	"BlockCountExceedsLimit": wire.Means(object.ErrInvalid, "the object has more blocks than the service takes"),
	"FeatureVersionMismatch": wire.Means(object.ErrUnsupported, "the service does not do this"),
	"UnsupportedHeader":      wire.Means(object.ErrUnsupported, "the service does not do this"),
	"UnsupportedRestVersion": wire.Means(object.ErrUnsupported, "the service speaks an older version of the protocol"),
	"APINotImplemented":      wire.Means(object.ErrUnsupported, "the service does not do this"), // Azurite
	"FeatureNotSupported":    wire.Means(object.ErrUnsupported, "the service does not do this"), // Azurite
	"NotImplemented":         wire.Means(object.ErrUnsupported, "the service does not do this"),
	"HierarchicalNamespaceNotEnabled": wire.Means(object.ErrUnsupported,
		"the account has no hierarchical namespace; write az:// instead of adls://"),
	"EndpointUnsupportedAccountFeatures": wire.Means(object.ErrUnsupported,
		"the account has features that the endpoint does not support"),
}

var (
	// errBlocks: a block list names blocks that are not there.
	errBlocks = fmt.Errorf("%w: blocks are gone", object.ErrUnavailable)
	// errNotEmpty: a directory is not empty.
	errNotEmpty = fmt.Errorf("%w: directory not empty", object.ErrExists)
	// errOtherType: a file where a directory was meant, or the other way round.
	errOtherType = fmt.Errorf("%w: a directory and a file have the same name", object.ErrInvalid)
)

// codeError is what the service said, without the URL of the request, in which
// there may be a SAS.
type codeError struct {
	code   string
	status int
}

func (e *codeError) Error() string { return fmt.Sprintf("%s (HTTP %d)", e.code, e.status) }

// fail makes the *object.Error of a failed request. w is the request's watchdog.
func (s *Store) fail(op, key string, w *watchdog.Dog, err error) error {
	if err == nil {
		return nil
	}
	return &object.Error{Op: op, Key: key, Err: s.explain(w, err)}
}

func (s *Store) explain(w *watchdog.Dog, err error) error {
	if cause := wire.Explain(w, s.where); cause != nil {
		return cause
	}
	var known *wire.Failure
	var re *azcore.ResponseError
	switch {
	case errors.As(err, &known), errors.Is(err, object.ErrAccess), errors.Is(err, object.ErrInvalid):
		return err
	case isIdentity(err):
		return s.explainIdentity(err)
	case errors.As(err, &re):
		return s.explainAnswer(re.RawResponse, re.ErrorCode, re.StatusCode)
	case strings.Contains(err.Error(), "requests are not permitted for non-TLS"):
		return &wire.Failure{Kind: object.ErrInvalid, Text: s.where + ": an identity's token is sent over https only", Cause: errors.New("http")}
	}
	return wire.ExplainNetwork(s.where, err)
}

func (s *Store) explainAnswer(resp *http.Response, code string, status int) error {
	m, ok := meanings[code]
	switch {
	case ok:
	case status == http.StatusNotFound && code != "":
		// Something is missing, but nobody must take it for the object.
		m = wire.Means(object.ErrInvalid, "the server misses something")
	case status == http.StatusConflict:
		m = wire.Means(object.ErrInvalid, "the object is in a state that does not allow this")
	default:
		m = wire.ByStatus(status)
	}
	if errors.Is(m.Kind, object.ErrAccess) {
		if end := s.auth.expired(); !end.IsZero() {
			m.Text = "the SAS ended at " + end.UTC().Format(time.RFC3339)
		}
	}
	detail := code
	if detail != "" {
		detail += ", "
	}
	detail += fmt.Sprintf("HTTP %d", status)
	var request string
	if resp != nil {
		request = resp.Header.Get("x-ms-request-id")
		if msg := message(resp); msg != "" && (!ok || m.Text == "") && m.Kind != object.ErrNotFound {
			detail += ": " + msg
		}
	}
	return m.Failure(s.where, detail, request, &codeError{code, status})
}

// message is the first line of what the service has to say, without requests' URLs.
func message(resp *http.Response) string {
	if resp.Body == nil {
		return ""
	}
	p, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	if err != nil {
		return ""
	}
	var doc struct {
		Message string
		Error   struct{ Message string }
	}
	if xml.Unmarshal(p, &doc) != nil && json.Unmarshal(p, &doc) != nil {
		return ""
	}
	if doc.Message == "" {
		doc.Message = doc.Error.Message
	}
	line := firstLine(doc.Message)
	if strings.Contains(line, "://") || len(line) > 300 {
		return ""
	}
	return line
}

func isIdentity(err error) bool {
	var failed *azidentity.AuthenticationFailedError
	if errors.As(err, &failed) {
		return true
	}
	var unavailable interface{ NonRetriable() }
	var re *azcore.ResponseError
	return errors.As(err, &unavailable) && strings.Contains(err.Error(), "Credential") && !errors.As(err, &re)
}

var (
	aadsts = regexp.MustCompile(`AADSTS\d+: [^.\r\n"]*`)
	// dialed is what the net package says of a connection that was not made; the
	// library for logins passes it on as text.
	dialed = regexp.MustCompile(`dial (tcp|udp)[^\r\n"]*`)
)

// explainIdentity is for tokens that were not given.
func (s *Store) explainIdentity(err error) error {
	text := err.Error()
	if what := dialed.FindString(text); what != "" {
		return &wire.Failure{Kind: object.ErrUnavailable, Text: fmt.Sprintf("%s: whoever gives out tokens cannot be reached: %s", s.where, what), Cause: errors.New(what)}
	}
	why := aadsts.FindString(text)
	if why == "" {
		why = firstLine(text)
		if i := strings.Index(why, "://"); i >= 0 { // nothing of a URL
			why = strings.TrimSpace(why[:strings.LastIndexAny(why[:i], " \"'(")+1])
		}
	}
	kind := object.ErrAccess
	var re *azidentity.AuthenticationFailedError
	if errors.As(err, &re) && re.RawResponse != nil && (re.RawResponse.StatusCode == http.StatusTooManyRequests || re.RawResponse.StatusCode >= 500) {
		kind = object.ErrUnavailable
	}
	return &wire.Failure{Kind: kind, Text: fmt.Sprintf("%s: no token for the identity: %s", s.where, why), Cause: errors.New(why)}
}

// nonsense is for an answer that cannot be right.
func (s *Store) nonsense(what string) error { return wire.Nonsense(s.where, what) }

// conditionError says what a failed condition means for the caller's options.
func conditionError(err error, opts *object.PutOptions) error {
	var oe *object.Error
	if !errors.As(err, &oe) {
		return err
	}
	switch {
	case opts.IfAbsent && (errors.Is(err, object.ErrPrecondition) || errors.Is(err, object.ErrExists)):
		oe.Err = object.ErrExists
	case opts.IfMatch != "" && (errors.Is(err, object.ErrPrecondition) || errors.Is(err, object.ErrNotFound) || errors.Is(err, object.ErrExists)):
		oe.Err = object.ErrPrecondition
	}
	return err
}
