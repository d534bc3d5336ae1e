#!/bin/sh
echo server
