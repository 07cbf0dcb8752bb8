package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// newPassphraseVar is the environment variable that a new passphrase is taken from.
const newPassphraseVar = "BCACHEFS_NEW_PASSPHRASE"

// passphraseCmd is set-passphrase, or remove-passphrase.
type passphraseCmd struct {
	*app
	setFlags
	name     string
	now, new openFlags // where the passphrases come from
	remove   bool
}

func newSetPassphraseCmd(a *app) *cobra.Command {
	p := &passphraseCmd{app: a, name: "set-passphrase", now: openFlags{passphraseFD: noFD}, new: openFlags{passphraseFD: noFD}}
	c := a.command(&cobra.Command{
		Use:   "set-passphrase [flags] DEV...",
		Short: "Change the passphrase of an encrypted filesystem",
		Long: "set-passphrase changes the passphrase of an encrypted filesystem that is not mounted, or gives it one if its key is stored in\n" +
			"the clear. The key itself, with which data is encrypted, stays the same.\n\n" +
			"The present passphrase is taken as 'gobcachefs help options' tells, the new one from --new-passphrase-file,\n" +
			"--new-passphrase-fd, " + newPassphraseVar + " or, asked for twice, the terminal.",
		Args: cobra.MinimumNArgs(1),
	}, p.run)
	p.flags(c)
	f := c.Flags()
	f.StringVar(&p.new.passphraseFile, "new-passphrase-file", "", "read the new passphrase from the first line of `FILE`")
	f.IntVar(&p.new.passphraseFD, "new-passphrase-fd", noFD, "read the new passphrase from file descriptor `N`")
	return c
}

func newRemovePassphraseCmd(a *app) *cobra.Command {
	p := &passphraseCmd{app: a, name: "remove-passphrase", remove: true, now: openFlags{passphraseFD: noFD}, new: openFlags{passphraseFD: noFD}}
	c := a.command(&cobra.Command{
		Use:   "remove-passphrase [flags] DEV...",
		Short: "Store the key of an encrypted filesystem in the clear",
		Long: "remove-passphrase stores the key of an encrypted filesystem that is not mounted in the clear: whoever has the devices can\n" +
			"then read it. Data stays encrypted.",
		Args: cobra.MinimumNArgs(1),
	}, p.run)
	p.flags(c)
	return c
}

func (p *passphraseCmd) flags(c *cobra.Command) {
	f := c.Flags()
	p.register(f)
	f.StringVar(&p.now.passphraseFile, "passphrase-file", "", "read the present passphrase from the first line of `FILE`")
	f.IntVar(&p.now.passphraseFD, "passphrase-fd", noFD, "read the present passphrase from file descriptor `N`")
}

func (p *passphraseCmd) run(ctx context.Context, args []string) (err error) {
	for _, o := range []*openFlags{&p.now, &p.new} {
		if o.passphraseFile != "" && o.passphraseFD >= 0 {
			return usagef("%s: a passphrase comes from a file or a file descriptor, not both", p.name)
		}
	}
	set, err := p.open(ctx, p.app, p.name, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.close()) }()
	sb := set.Superblock()
	c, err := sb.Crypt()
	switch {
	case err != nil:
		return set.failed(err)
	case c == nil:
		return set.failed(errors.New("the filesystem is not encrypted"))
	case p.remove && !c.Key.Encrypted():
		return set.failed(errors.New("it has no passphrase"))
	}
	master, err := p.unlock(ctx, set, sb, c)
	if err != nil {
		return err
	}
	defer clear(master[:])
	wrapped := crypt.Wrap(&master, nil, sb.UUID)
	if !p.remove {
		if wrapped, err = p.wrap(ctx, set, sb, c, &master); err != nil {
			return err
		}
	}
	err = set.Update(ctx, func(sb *ondisk.Superblock) error {
		sb.SetCrypt(&ondisk.Crypt{KDF: c.KDF, Key: wrapped})
		return nil
	}, nil)
	if err != nil {
		return set.failed(err)
	}
	return nil
}

// unlock gets the key that data is encrypted with.
func (p *passphraseCmd) unlock(ctx context.Context, set *openSet, sb *ondisk.Superblock, c *ondisk.Crypt) (crypt.Key, error) {
	if !c.Key.Encrypted() {
		return c.Key.Unwrap(nil, sb.UUID)
	}
	where := set.devs[0].Name()
	passphrase, err := p.now.passphrase(ctx, p.app, where)
	if err != nil {
		return crypt.Key{}, openError(p.name, where, nil, err)
	}
	defer clear(passphrase)
	k, err := crypt.DeriveKey(passphrase, c.KDF)
	if err != nil {
		return crypt.Key{}, set.failed(err)
	}
	defer clear(k[:])
	master, err := c.Key.Unwrap(&k, sb.UUID)
	if err != nil {
		return master, openError(p.name, where, nil, err)
	}
	return master, nil
}

// wrap encrypts the key with the new passphrase. How that becomes a key stays as it was, if that can be used: of filesystems
// whose key was in the clear it cannot.
func (p *passphraseCmd) wrap(ctx context.Context, set *openSet, sb *ondisk.Superblock, c *ondisk.Crypt, master *crypt.Key) (crypt.WrappedKey, error) {
	passphrase, err := p.new.newPassphrase(ctx, p.app, newPassphraseVar)
	if errors.Is(err, errNoPassphrase) {
		err = failedTodo(p.name, "", errors.New("no new passphrase was given"),
			"use --new-passphrase-file, --new-passphrase-fd or "+newPassphraseVar+", or run it on a terminal")
	}
	if err != nil {
		return crypt.WrappedKey{}, err
	}
	defer clear(passphrase)
	if c.KDF.Validate() != nil {
		c.KDF = crypt.DefaultKDF()
	}
	k, err := crypt.DeriveKey(passphrase, c.KDF)
	if err != nil {
		return crypt.WrappedKey{}, set.failed(err)
	}
	defer clear(k[:])
	return crypt.Wrap(master, &k, sb.UUID), nil
}
