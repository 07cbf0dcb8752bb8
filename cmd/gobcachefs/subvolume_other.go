//go:build !linux

package main

import (
	"errors"

	"github.com/go-bcachefs/bcachefs"
)

// errNotMounted is about mounts, which there are none of here.
var errNotMounted = errors.New("bcachefs is mounted on Linux only: give the devices first")

func createMounted(string) error                 { return errNotMounted }
func snapshotMounted(string, string, bool) error { return errNotMounted }
func deleteMounted(string) error                 { return errNotMounted }

func subvolumesMounted(string) ([]bcachefs.SubvolumeInfo, error) { return nil, errNotMounted }
