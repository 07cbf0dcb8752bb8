package alloc

// TriggerFlags tell a trigger which sides of a change it is to process, and how the change is made.
type TriggerFlags uint8

// Flags of triggers.
const (
	// TriggerInsert processes the new key, TriggerOverwrite the old one.
	TriggerInsert TriggerFlags = 1 << iota
	TriggerOverwrite
	// TriggerBucketInvalidate is set for updates made with [BucketInvalidate].
	TriggerBucketInvalidate
)
